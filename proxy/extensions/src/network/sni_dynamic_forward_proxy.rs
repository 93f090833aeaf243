//! `envoy.filters.network.sni_dynamic_forward_proxy`: has the host looked up that a TLS client asks for, and holds its connection until that is done. The
//! cluster of the TCP proxy behind it is one of type `envoy.clusters.dynamic_forward_proxy`.
//!
//! Source: Envoy `docs/root/configuration/listeners/network_filters/sni_dynamic_forward_proxy_filter.rst`.

use std::rc::Rc;
use std::sync::Arc;

use proxy_core::config::FieldUse::{Ignored, Used};
use proxy_core::config::{BuildCx, MessageFields, Rejected};
use proxy_core::dns_cache::{
    self, DYNAMIC_PORT, DnsCache, LookUp, StatePort, Wanted, host_of_state, port_of_state,
};
use proxy_core::extension::network_filter::{
    ConnectionStep, ConnectionVerdict, NetworkFilter, NetworkFilterConfig, NetworkFilterFactory,
};
use proxy_core::extension::{Descriptor, SecurityPosture, Status, decode};
use proxy_core::stream_info::StreamInfo;
use xds_api::envoy::extensions::filters::network::sni_dynamic_forward_proxy::v3 as proto;
use xds_api::envoy::extensions::filters::network::sni_dynamic_forward_proxy::v3::filter_config::PortSpecifier;

const MESSAGE: &str = "envoy.extensions.filters.network.sni_dynamic_forward_proxy.v3.FilterConfig";

/// How the fields of the configuration are used.
pub const FIELDS: &[MessageFields] = &[(
    MESSAGE,
    &[
        ("dns_cache_config", Used),
        ("port_value", Used),
        ("save_upstream_address", Ignored(dns_cache::NOT_SAVED)),
    ],
)];

/// The extension.
pub struct SniDynamicForwardProxy;

impl NetworkFilterFactory for SniDynamicForwardProxy {
    fn descriptor(&self) -> Descriptor {
        Descriptor {
            name: "envoy.filters.network.sni_dynamic_forward_proxy",
            message: MESSAGE,
            status: Status::Stable,
            posture: SecurityPosture::RobustToUntrustedDownstream,
        }
    }

    fn build(&self, payload: &[u8], cx: &mut BuildCx<'_>) -> Result<NetworkFilterConfig, Rejected> {
        let proto::FilterConfig { dns_cache_config, save_upstream_address: _, port_specifier } =
            decode(payload, cx)?;
        let config = dns_cache_config.unwrap_or_default();
        let cache = cx.at("dns_cache_config", |cx| cx.env.dns_caches.cache(&config, cx))?;
        let port = match port_specifier {
            Some(PortSpecifier::PortValue(port)) => u16::try_from(port).map_err(|_| {
                cx.at("port_value", |cx| cx.reject("value must be less than or equal to 65535"))
            })?,
            None => 0,
        };
        Ok(NetworkFilterConfig::Policy(Arc::new(move |_| Box::new(Filter { cache: cache.clone(), port }))))
    }

    fn looks_once(&self) -> bool {
        true
    }
}

struct Filter {
    cache: Arc<dyn DnsCache>,
    port: u16,
}

impl NetworkFilter for Filter {
    fn on_connection<'a>(&'a mut self, info: &'a mut StreamInfo) -> ConnectionStep<'a> {
        let of_state = host_of_state(info);
        let of_client = info.connection.server_name.clone();
        let host = of_state.as_deref().or(of_client.as_deref()).unwrap_or_default();
        if host.is_empty() {
            return ConnectionStep::Continue;
        }
        let port = port_of_state(info).unwrap_or_else(|| {
            // (The cluster goes there as well.)
            info.filter_state.set(DYNAMIC_PORT, Rc::new(StatePort(self.port)));
            self.port
        });
        match Wanted::of(host, port).map(|wanted| self.cache.look_up(wanted)) {
            // What is not known is the cluster's to say.
            Some(LookUp::Known(_)) | None => ConnectionStep::Continue,
            Some(LookUp::Wait(waiting)) => ConnectionStep::Wait(Box::pin(async move {
                let _ = waiting.await;
                ConnectionVerdict::Continue
            })),
            Some(LookUp::Full) => ConnectionStep::Close(dns_cache::OVERFLOW.into()),
            Some(LookUp::Busy) => ConnectionStep::Close(dns_cache::PENDING_OVERFLOW.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;
    use proxy_core::stream_info::ConnectionInfo;

    use super::*;
    use crate::testing::{block_on, connection_info, engine, env, stream_info};

    /// Whether a connection of a client that asks for `host` goes on, and where to.
    fn run(host: Option<&str>, port: u32) -> (bool, Option<u16>) {
        let proto = proto::FilterConfig {
            port_specifier: Some(PortSpecifier::PortValue(port)),
            ..proto::FilterConfig::default()
        };
        let env = env();
        let built = SniDynamicForwardProxy.build(&proto.encode_to_vec(), &mut BuildCx::new(&env));
        let Ok(NetworkFilterConfig::Policy(create)) = built else { panic!("no policy") };
        let mut filter = create(&engine());
        let connection = ConnectionInfo { server_name: host.map(Into::into), ..connection_info() };
        let mut info = StreamInfo { connection: Rc::new(connection), ..stream_info() };
        let goes_on = match filter.on_connection(&mut info) {
            ConnectionStep::Continue => true,
            ConnectionStep::Wait(waiting) => matches!(block_on(waiting), ConnectionVerdict::Continue),
            ConnectionStep::Close(_) => false,
        };
        (goes_on, port_of_state(&info))
    }

    #[test]
    fn connections_go_on_when_their_host_is_looked_up() {
        for (host, goes_on) in [
            ("known.test", true),
            ("slow.test", true),
            ("lost.test", true),
            ("busy.test", false),
            ("x", false),
        ] {
            assert_eq!(run(Some(host), 443), (goes_on, Some(443)), "{host}");
        }
        assert_eq!(run(None, 443), (true, None), "nothing is looked up");
    }

    #[test]
    fn ports_are_small_numbers() {
        let proto = proto::FilterConfig {
            port_specifier: Some(PortSpecifier::PortValue(65_536)),
            ..proto::FilterConfig::default()
        };
        let env = env();
        let mut cx = BuildCx::new(&env);
        assert!(SniDynamicForwardProxy.build(&proto.encode_to_vec(), &mut cx).is_err());
        assert_eq!(cx.into_errors()[0].path, "port_value");
    }
}
