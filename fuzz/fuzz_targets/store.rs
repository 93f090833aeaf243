//! Deliveries of clusters, endpoints, listeners and routes in any order, with timeouts and drains, against a plain model
//! of warming.
#![no_main]

use libfuzzer_sys::fuzz_target;
use proxy_core::config::BuildEnv;

fuzz_target!(|schedule: &[u8]| {
    let env = BuildEnv { extensions: Default::default(), ..outrigger_fuzz::env() };
    proxy_engine::state::simulation::run(schedule, env);
});
