//! The xDS state machine under any schedule of responses, interest, verdicts, disconnects and time.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|schedule: &[u8]| xds::simulation::run(schedule));
