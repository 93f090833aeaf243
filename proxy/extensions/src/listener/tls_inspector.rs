//! `envoy.filters.listener.tls_inspector`: finds TLS, the server name and the offered protocols in a ClientHello.
//!
//! The connection gets the transport protocol `tls`, the server name (lower case) and the protocols of ALPN. What is not
//! a ClientHello passes as plain text, unless `close_connection_on_client_hello_parsing_errors` is set; a ClientHello
//! above `max_client_hello_size` or of a version that does not exist closes the connection. Why it was not accepted is
//! in the metadata `envoy.filters.listener.tls_inspector`, `failure_reason`.
//! Sources: Envoy `docs/root/configuration/listeners/listener_filters/tls_inspector.rst`; RFC 8446 sections 4.1.2, 4.2
//! and 5.1, RFC 6066 section 3, RFC 7301 section 3.1. Verdicts observed on Envoy 1.40.

use std::sync::Arc;

use prost_types::{Struct, Value, value::Kind};
use proxy_core::config::{BuildCx, FieldUse, MessageFields, Rejected};
use proxy_core::extension::listener_filter::{
    ListenerFilter, ListenerFilterConfig, ListenerFilterFactory, ListenerStep, Socket,
};
use proxy_core::extension::{Descriptor, SecurityPosture, Status, decode};
use proxy_core::stats::Cells;
use proxy_core::stats::groups::TlsInspectorStats;
use proxy_core::stream_info::ConnectionInfo;
use proxy_core::text::Text;
use xds_api::envoy::extensions::filters::listener::tls_inspector::v3 as proto;

use FieldUse::{Rejected as Refused, Used};
pub use proxy_core::tls::client_hello::{ClientHello, Parsed, parse};

/// How the fields of the configuration are used.
pub const FIELDS: &[MessageFields] = &[(
    "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector",
    &[
        ("enable_ja3_fingerprinting", Refused("fingerprints are not available")),
        ("enable_ja4_fingerprinting", Refused("fingerprints are not available")),
        ("initial_read_buffer_size", Used),
        ("close_connection_on_client_hello_parsing_errors", Used),
        ("max_client_hello_size", Used),
    ],
)];

const NAMESPACE: &str = "envoy.filters.listener.tls_inspector";
/// Bytes looked at first, unless configured.
const FIRST_LOOK: usize = 512;
/// Longest handshake message that is read, unless configured to be shorter.
const LONGEST: usize = 16 << 10;

/// The extension.
pub struct TlsInspector;

impl ListenerFilterFactory for TlsInspector {
    fn descriptor(&self) -> Descriptor {
        Descriptor {
            name: "envoy.filters.listener.tls_inspector",
            message: "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector",
            status: Status::Stable,
            posture: SecurityPosture::RobustToUntrustedDownstream,
        }
    }

    fn build(&self, payload: &[u8], cx: &mut BuildCx<'_>) -> Result<Arc<dyn ListenerFilterConfig>, Rejected> {
        Ok(Arc::new(Shared(Arc::new(Config::build(decode(payload, cx)?, cx)?))))
    }
}

struct Config {
    first_look: usize,
    longest: usize,
    close_on_errors: bool,
    stats: Cells<TlsInspectorStats>,
}

impl Config {
    fn build(proto: proto::TlsInspector, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let proto::TlsInspector {
            enable_ja3_fingerprinting,
            enable_ja4_fingerprinting,
            initial_read_buffer_size,
            close_connection_on_client_hello_parsing_errors,
            max_client_hello_size,
        } = proto;
        let reason = "fingerprints are not available";
        let ja3 = enable_ja3_fingerprinting.unwrap_or(false);
        let ja4 = enable_ja4_fingerprinting.unwrap_or(false);
        let ja3 = cx.reject_if(ja3, "enable_ja3_fingerprinting", reason);
        let ja4 = cx.reject_if(ja4, "enable_ja4_fingerprinting", reason);
        let longest = size("max_client_hello_size", max_client_hello_size, LONGEST, LONGEST, cx);
        let first_look = size("initial_read_buffer_size", initial_read_buffer_size, FIRST_LOOK, 65_536, cx);
        ja3?;
        ja4?;
        let longest = longest?;
        Ok(Self {
            first_look: first_look?.min(longest),
            longest,
            close_on_errors: close_connection_on_client_hello_parsing_errors,
            stats: cx.env.stats.scope("tls_inspector").cells(),
        })
    }
}

fn size(
    field: &'static str,
    value: Option<u32>,
    default: usize,
    most: usize,
    cx: &mut BuildCx<'_>,
) -> Result<usize, Rejected> {
    let Some(value) = value else { return Ok(default) };
    let value = usize::try_from(value).unwrap_or(usize::MAX);
    if value <= 255 || value > most {
        return Err(cx.at(field, |cx| cx.reject(format!("value must be inside range (255, {most}]"))));
    }
    Ok(value)
}

struct Shared(Arc<Config>);

impl ListenerFilterConfig for Shared {
    fn create(&self) -> Box<dyn ListenerFilter> {
        Box::new(Filter { look: self.0.first_look, config: self.0.clone() })
    }

    fn is_inspector(&self) -> bool {
        true
    }
}

struct Filter {
    config: Arc<Config>,
    look: usize,
}

impl Filter {
    fn found(&self, hello: &ClientHello<'_>, seen: usize, info: &mut ConnectionInfo) -> ListenerStep {
        let stats = self.config.stats.here();
        match hello.server_name {
            Some(name) => {
                stats.sni_found.inc();
                info.server_name = Some(name.to_ascii_lowercase().into());
            }
            None => stats.sni_not_found.inc(),
        }
        if !hello.has_known_version() {
            stats.tls_not_found.inc();
            return self.fail("ClientHelloInvalidTlsVersion", info);
        }
        if hello.protocols.is_empty() {
            stats.alpn_not_found.inc();
        } else {
            stats.alpn_found.inc();
            info.application_protocols =
                hello.protocols.iter().map(|name| Text::from(&*String::from_utf8_lossy(name))).collect();
        }
        stats.tls_found.inc();
        stats.bytes_processed.record(seen as u64);
        info.transport_protocol = "tls";
        ListenerStep::Continue { consume: 0 }
    }

    fn not_found(&self, info: &mut ConnectionInfo) -> ListenerStep {
        self.config.stats.here().tls_not_found.inc();
        let close = self.fail("ClientHelloNotDetected", info);
        if self.config.close_on_errors { close } else { ListenerStep::Continue { consume: 0 } }
    }

    fn fail(&self, reason: &str, info: &mut ConnectionInfo) -> ListenerStep {
        let reason = Value { kind: Some(Kind::StringValue(reason.to_owned())) };
        info.metadata.merge(NAMESPACE, Struct { fields: [("failure_reason".to_owned(), reason)].into() });
        ListenerStep::Close
    }
}

impl ListenerFilter for Filter {
    fn max_read_bytes(&self) -> usize {
        self.look
    }

    fn on_data(&mut self, data: &[u8], _socket: &dyn Socket, info: &mut ConnectionInfo) -> ListenerStep {
        // More than the limit may have been read for another filter.
        let data = data.get(..self.config.longest).unwrap_or(data);
        let mut joined = Vec::new();
        match parse(data, LONGEST, &mut joined) {
            Parsed::Hello(hello, seen) => self.found(&hello, seen, info),
            Parsed::Other => self.not_found(info),
            Parsed::More if data.len() < self.look => ListenerStep::NeedData,
            Parsed::More if self.look < self.config.longest => {
                self.look = (self.look * 2).min(self.config.longest);
                ListenerStep::NeedData
            }
            Parsed::More => {
                self.config.stats.here().client_hello_too_large.inc();
                self.fail("ClientHelloTooLarge", info)
            }
        }
    }
}

#[cfg(test)]
mod tests;
