//! `envoy.filters.listener.http_inspector`: finds HTTP in the first line of a plain-text connection.
//!
//! What it finds becomes the connection's application protocol: `http/1.0`, `http/1.1` or `h2c`. A connection that
//! another filter found to be TLS is not looked at. A first line without an end in 64 KiB closes the connection. Like Envoy it is generous: any token is a method, a line without a
//! version or with a version other than 1.1 counts as HTTP/1.0.
//! Source: Envoy `docs/root/configuration/listeners/listener_filters/http_inspector.rst`; verdicts observed on 1.40.

use std::sync::Arc;

use proxy_core::config::{BuildCx, MessageFields, Rejected};
use proxy_core::extension::listener_filter::{
    ListenerFilter, ListenerFilterConfig, ListenerFilterFactory, ListenerStep, Socket,
};
use proxy_core::extension::{Descriptor, SecurityPosture, Status, decode};
use proxy_core::stats::Cells;
use proxy_core::stats::groups::HttpInspectorStats;
use proxy_core::stream_info::ConnectionInfo;
use proxy_core::text::Text;
use xds_api::envoy::extensions::filters::listener::http_inspector::v3 as proto;

/// How the fields of the configuration are used.
pub const FIELDS: &[MessageFields] =
    &[("envoy.extensions.filters.listener.http_inspector.v3.HttpInspector", &[])];

/// Bytes looked at first, and at most.
const FIRST_LOOK: usize = 8 << 10;
const LAST_LOOK: usize = 64 << 10;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The extension.
pub struct HttpInspector;

impl ListenerFilterFactory for HttpInspector {
    fn descriptor(&self) -> Descriptor {
        Descriptor {
            name: "envoy.filters.listener.http_inspector",
            message: "envoy.extensions.filters.listener.http_inspector.v3.HttpInspector",
            status: Status::Stable,
            posture: SecurityPosture::RobustToUntrustedDownstream,
        }
    }

    fn build(&self, payload: &[u8], cx: &mut BuildCx<'_>) -> Result<Arc<dyn ListenerFilterConfig>, Rejected> {
        let proto::HttpInspector {} = decode(payload, cx)?;
        Ok(Arc::new(Config { stats: cx.env.stats.scope("http_inspector").cells() }))
    }
}

struct Config {
    stats: Cells<HttpInspectorStats>,
}

impl ListenerFilterConfig for Config {
    fn create(&self) -> Box<dyn ListenerFilter> {
        Box::new(Filter { stats: self.stats.clone(), look: FIRST_LOOK })
    }

    fn is_inspector(&self) -> bool {
        true
    }
}

/// What the first bytes of a connection are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// HTTP/1.0, or a line that HTTP/1.0 allows.
    Http10,
    /// HTTP/1.1
    Http11,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// Not HTTP.
    Other,
    /// More bytes are needed.
    Unknown,
}

/// Looks at the first bytes of a connection.
pub fn inspect(data: &[u8]) -> Found {
    if data.starts_with(PREFACE) {
        return Found::Http2;
    }
    if PREFACE.starts_with(data) {
        return Found::Unknown;
    }
    let is_method = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    let method = data.iter().position(|byte| !is_method(*byte));
    match method.and_then(|end| data.get(end)) {
        Some(b' ') if method != Some(0) => {}
        Some(_) => return Found::Other,
        None => return Found::Unknown,
    }
    let end = data.iter().position(|byte| *byte == b'\n');
    let line = end.and_then(|end| data.get(..end)).unwrap_or(data);
    match end {
        _ if line.contains(&0) => Found::Other,
        Some(_) => version(line),
        None => Found::Unknown,
    }
}

/// The version of a request line without its line feed.
fn version(line: &[u8]) -> Found {
    let line = line.trim_ascii_end();
    let mut words = line.split(|byte| byte.is_ascii_whitespace()).filter(|word| !word.is_empty());
    let (_method, target, version) = (words.next(), words.next(), words.next());
    match (target, version) {
        (None, _) => Found::Other,
        (Some(_), None) => Found::Http10,
        (Some(_), Some(b"HTTP/1.1")) => Found::Http11,
        (Some(_), Some(version)) if is_version(version) => Found::Http10,
        (Some(_), Some(_)) => Found::Other,
    }
}

fn is_version(version: &[u8]) -> bool {
    matches!(version.strip_prefix(b"HTTP/"), Some([major, b'.', minor])
        if major.is_ascii_digit() && minor.is_ascii_digit())
}

struct Filter {
    stats: Cells<HttpInspectorStats>,
    look: usize,
}

impl ListenerFilter for Filter {
    fn max_read_bytes(&self) -> usize {
        self.look
    }

    fn on_data(&mut self, data: &[u8], _socket: &dyn Socket, info: &mut ConnectionInfo) -> ListenerStep {
        let done = ListenerStep::Continue { consume: 0 };
        if info.transport_protocol != "raw_buffer" {
            return done;
        }
        let stats = self.stats.here();
        let (counter, protocol) = match inspect(data) {
            Found::Http10 => (&stats.http10_found, "http/1.0"),
            Found::Http11 => (&stats.http11_found, "http/1.1"),
            Found::Http2 => (&stats.http2_found, "h2c"),
            Found::Unknown if data.len() < self.look => return ListenerStep::NeedData,
            Found::Unknown if self.look < LAST_LOOK => {
                self.look = (self.look * 2).min(LAST_LOOK);
                return ListenerStep::NeedData;
            }
            Found::Unknown => {
                stats.read_error.inc();
                return ListenerStep::Close;
            }
            Found::Other => {
                stats.http_not_found.inc();
                return done;
            }
        };
        counter.inc();
        info.application_protocols = vec![Text::from_static(protocol)];
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{FakeSocket, connection_info, env};

    /// The verdicts of Envoy 1.40 on the same bytes.
    #[test]
    fn verdicts_are_envoys() {
        for (data, expected) in [
            (&b"GET / HTTP/1.1\r\n"[..], Found::Http11),
            (b"GET / HTTP/1.0\r\n\r\n", Found::Http10),
            (b"GET / HTTP/1.1\n", Found::Http11),
            (b"GET /\r\n\r\n", Found::Http10),
            (PREFACE, Found::Http2),
            (b"PRI * HTTP/2.0", Found::Unknown),
            (b"PRI * HTTP/1.1\r\n\r\n", Found::Http11),
            (b"FOO / HTTP/1.1\r\n\r\n", Found::Http11),
            (b"get / HTTP/1.1\r\n\r\n", Found::Http11),
            (b"GET / HTTP/1.2\r\n\r\n", Found::Http10),
            (b"GET / HTTP/2.0\r\n\r\n", Found::Http10),
            (b"GET  / HTTP/1.1\r\n\r\n", Found::Http11),
            (b"hello\r\n", Found::Other),
            (b"hello", Found::Unknown),
            (b"\x16\x03\x01", Found::Other),
            (b"GET / HTTP/1.1", Found::Unknown),
            (b"\r\nGET / HTTP/1.1\r\n", Found::Other),
            (b"GET / HTTP/1.1 \r\n", Found::Http11),
            (b"GET / http/1.1\r\n", Found::Other),
            (b"G\0T / HTTP/1.1\r\n", Found::Other),
            (b"OPTIONS * HTTP/1.1\r\n", Found::Http11),
            (b"CONNECT a:1 HTTP/1.1\r\n", Found::Http11),
            (b"M-SEARCH / HTTP/1.1\r\n", Found::Http11),
        ] {
            assert_eq!(inspect(data), expected, "{}", String::from_utf8_lossy(data));
        }
    }

    #[test]
    fn a_verdict_does_not_depend_on_how_the_bytes_arrive() {
        for whole in
            [&b"GET / HTTP/1.1\r\nhost: a\r\n"[..], PREFACE, b"GET /\r\n", b"a b c\n", b"PRI *\0HTTP/2.0\r\n"]
        {
            let last = inspect(whole);
            let mut seen = Found::Unknown;
            for end in 0..=whole.len() {
                seen = inspect(&whole[..end]);
                if seen != Found::Unknown {
                    break;
                }
            }
            assert_eq!(seen, last, "{}", String::from_utf8_lossy(whole));
        }
    }

    fn filter() -> Box<dyn ListenerFilter> {
        let env = env();
        HttpInspector.build(b"", &mut BuildCx::new(&env)).unwrap().create()
    }

    #[test]
    fn the_protocol_is_set_and_tls_left_alone() {
        let mut info = connection_info();
        let done = ListenerStep::Continue { consume: 0 };
        assert_eq!(filter().on_data(PREFACE, &FakeSocket(None), &mut info), done);
        assert_eq!(info.application_protocols, ["h2c"]);
        let mut info = connection_info();
        info.transport_protocol = "tls";
        assert_eq!(filter().on_data(b"GET / HTTP/1.1\r\n", &FakeSocket(None), &mut info), done);
        assert!(info.application_protocols.is_empty());
    }

    #[test]
    fn an_endless_line_closes_the_connection() {
        let mut filter = filter();
        let mut info = connection_info();
        let mut data = b"GET /".to_vec();
        let step = loop {
            data.resize(filter.max_read_bytes(), b'a');
            match filter.on_data(&data, &FakeSocket(None), &mut info) {
                ListenerStep::NeedData => assert!(data.len() <= LAST_LOOK),
                step => break step,
            }
        };
        assert_eq!(step, ListenerStep::Close);
        assert_eq!(data.len(), LAST_LOOK);
    }
}
