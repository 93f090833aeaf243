//! The first bytes of a connection: PROXY protocol (v1, v2, TLVs), ClientHello, HTTP. No panic, the same verdict however
//! the bytes arrive, and nothing consumed that did not arrive.
#![no_main]

use libfuzzer_sys::fuzz_target;
use prost::Message;
use proxy_core::address::Address;
use proxy_core::config::BuildCx;
use proxy_core::extension::listener_filter::{ListenerFilterConfig, ListenerStep, Socket};
use std::sync::Arc;
use xds_api::envoy::config::core::v3::ProxyProtocolPassThroughTlVs;
use xds_api::envoy::extensions::filters::listener::proxy_protocol::v3 as proxy_protocol;

struct Plain;

impl Socket for Plain {
    fn original_destination(&self) -> Option<Address> {
        None
    }
}

const NAMES: [&str; 4] = ["ProxyProtocol", "ProxyProtocol", "TlsInspector", "HttpInspector"];

fuzz_target!(|input: &[u8]| {
    let Some((&which, bytes)) = input.split_first() else { return };
    let config = config(which);
    let whole = run(&*config, bytes, bytes.len().max(1));
    assert_eq!(run(&*config, bytes, 1), whole);
    assert_eq!(run(&*config, bytes, 7), whole);
});

fn config(which: u8) -> Arc<dyn ListenerFilterConfig> {
    use proxy_protocol::proxy_protocol::{KeyValuePair, Rule};
    let index = usize::from(which) % NAMES.len();
    let payload = match index {
        0 => Vec::new(),
        1 => {
            let pair = KeyValuePair { key: "k".to_owned(), ..KeyValuePair::default() };
            let rules = [1, 2, 0xea].map(|tlv| Rule { tlv_type: tlv, on_tlv_present: Some(pair.clone()) });
            let proto = proxy_protocol::ProxyProtocol {
                rules: rules.to_vec(),
                allow_requests_without_proxy_protocol: true,
                pass_through_tlvs: Some(ProxyProtocolPassThroughTlVs::default()),
                ..proxy_protocol::ProxyProtocol::default()
            };
            proto.encode_to_vec()
        }
        _ => Vec::new(),
    };
    let mut filters = proxy_extensions::LISTENER_FILTERS.iter();
    let factory =
        filters.find(|one| one.descriptor().message.ends_with(NAMES[index])).expect("is registered");
    let env = outrigger_fuzz::env();
    let mut cx = BuildCx::new(&env);
    let Ok(config) = factory.build(&payload, &mut cx) else { panic!("{:?}", cx.into_errors()) };
    config
}

/// The verdict, and what the filter found out, when `step` more bytes arrive at a time.
fn run(config: &dyn ListenerFilterConfig, bytes: &[u8], step: usize) -> String {
    let mut filter = config.create();
    let mut info = outrigger_fuzz::connection();
    let mut seen = 0;
    loop {
        seen = (seen + step).min(bytes.len());
        let most = filter.max_read_bytes().min(seen);
        match filter.on_data(&bytes[..most], &Plain, &mut info) {
            // (It may want to see more at once than before.)
            ListenerStep::NeedData if seen < bytes.len() || filter.max_read_bytes().min(seen) > most => {
                continue;
            }
            ListenerStep::NeedData => filter.on_close(),
            ListenerStep::Continue { consume } => assert!(consume <= most),
            ListenerStep::Close => return "closed".to_owned(),
        }
        let proxy_core::stream_info::ConnectionInfo {
            remote, local, server_name, application_protocols, ..
        } = info;
        return format!(
            "{remote:?} {local:?} {server_name:?} {application_protocols:?} {}",
            info.transport_protocol
        );
    }
}
