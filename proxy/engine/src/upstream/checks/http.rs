//! HTTP checks: a request, and what its answer must be like.

use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use proxy_core::address::Address;
use proxy_core::config::{BuildCx, Rejected};
use proxy_core::head::RequestHead;
use proxy_core::headers::{
    X_ENVOY_DEGRADED, X_ENVOY_IMMEDIATE_HEALTH_CHECK_FAIL, X_ENVOY_UPSTREAM_HEALTHCHECKED_CLUSTER,
};
use proxy_core::matcher::string::StringMatcher;
use proxy_core::stream_info::{ConnectionInfo, StreamInfo};
use proxy_core::text::Text;
use proxy_core::upstream::{CheckFailure, CheckResult, FailureKind, Host, Payload};
use xds_api::envoy::config::core::v3::RequestMethod;
use xds_api::envoy::config::core::v3::health_check as proto;
use xds_api::envoy::r#type::v3::{CodecClientType, Int64Range};

use super::Spoken;
use super::wire::{Answer, Broken, Codec, Http, Probe, Request};
use crate::local::clock;
use crate::upstream::header_mutation::HeaderMutations;

/// What checks call themselves (`user-agent`).
pub(super) const USER_AGENT: HeaderValue = HeaderValue::from_static("Envoy/HC");
/// How much of a body is looked through unless the configuration says otherwise.
const BUFFER_SIZE: u64 = 1024;
/// In how many percent of the checks the service is verified.
const VERIFY: &str = "health_check.verify_cluster";
const NOBODY: Address = Address::Ip(SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0));

/// `HttpHealthCheck`
pub(super) struct HttpCheck {
    host: String,
    path: Text,
    method: Method,
    body: Bytes,
    receive: Payload,
    /// How many bytes of an answer are looked through; `None` for as many as a connection of the cluster may buffer.
    buffer_size: Option<usize>,
    headers: HeaderMutations,
    expected: Statuses,
    retriable: Statuses,
    codec: Codec,
    service: Option<StringMatcher>,
}

/// Ranges of statuses, the end of each excluded.
struct Statuses(Vec<(i64, i64)>);

impl Statuses {
    fn build(
        field: &'static str,
        kind: &str,
        protos: &[Int64Range],
        cx: &mut BuildCx<'_>,
    ) -> Result<Self, Rejected> {
        let ranges = cx.each(field, protos, |&Int64Range { start, end }, cx| {
            let wrong = match (start, end) {
                _ if start >= end => {
                    format!("expecting start < end, but found start={start} and end={end}")
                }
                _ if start < 100 => format!("expecting start >= 100, but found start={start}"),
                _ if end > 600 => format!("expecting end <= 600, but found end={end}"),
                _ => return Ok((start, end)),
            };
            Err(cx.reject(format!("Invalid http {kind} status range: {wrong}")))
        });
        Ok(Self(ranges?))
    }

    fn have(&self, status: StatusCode) -> bool {
        let status = i64::from(status.as_u16());
        self.0.iter().any(|(start, end)| (*start..*end).contains(&status))
    }
}

impl HttpCheck {
    pub(super) fn build(
        proto: &proto::HttpHealthCheck,
        spoken: Spoken,
        cx: &mut BuildCx<'_>,
    ) -> Result<Self, Rejected> {
        let proto::HttpHealthCheck {
            host,
            path,
            send,
            receive,
            response_buffer_size,
            request_headers_to_add,
            request_headers_to_remove,
            expected_statuses,
            retriable_statuses,
            codec_client_type,
            use_alpn_protocol,
            service_name_matcher,
            method,
        } = proto;
        cx.reject_if(*use_alpn_protocol && !spoken.is_secure, "use_alpn_protocol", NO_ALPN)?;
        let method = cx.at("method", |cx| build_method(*method, cx));
        let body = send.as_ref().map(|send| cx.at("send", |cx| Payload::piece(send, cx)));
        let receive = Payload::build_all("receive", receive, cx);
        let headers = HeaderMutations::build_request(request_headers_to_add, request_headers_to_remove, cx);
        let mut expected = Statuses::build("expected_statuses", "expected", expected_statuses, cx)?;
        if expected.0.is_empty() {
            expected.0.push((200, 201));
        }
        let retriable = Statuses::build("retriable_statuses", "retriable", retriable_statuses, cx)?;
        let service = service_name_matcher
            .as_ref()
            .map(|matcher| cx.at("service_name_matcher", |cx| StringMatcher::build(matcher, cx)));
        let codec = match CodecClientType::try_from(*codec_client_type) {
            Ok(CodecClientType::Http1) => Http::Version1,
            Ok(CodecClientType::Http2) => Http::Version2,
            Ok(CodecClientType::Http3) | Err(_) => {
                return Err(cx.at("codec_client_type", |cx| cx.reject("only HTTP1 and HTTP2 are available")));
            }
        };
        let (method, body, receive) = (method?, body.transpose()?, receive?);
        if body.is_some() && !takes_body(&method) {
            return Err(cx.at("send", |cx| {
                cx.reject(format!(
                    "HTTP health check cannot specify a request payload with method '{method}'. Only methods that \
                     support a request body (POST, PUT, PATCH, OPTIONS) can be used with payload."
                ))
            }));
        }
        let buffer_size = response_buffer_size.unwrap_or(BUFFER_SIZE);
        if buffer_size != 0 && receive.len() as u64 > buffer_size {
            let length = receive.len();
            return Err(cx.at("receive", |cx| {
                cx.reject(format!(
                    "The expected response length '{length}' is over than http health response buffer size \
                     '{buffer_size}'"
                ))
            }));
        }
        Ok(Self {
            host: host.clone(),
            path: path.as_str().into(),
            method,
            body: body.map(|body| Bytes::from(body.into_vec())).unwrap_or_default(),
            receive,
            buffer_size: usize::try_from(buffer_size).ok().filter(|size| *size != 0),
            headers: headers?,
            expected,
            retriable,
            codec: if *use_alpn_protocol { Codec::Agreed { or: codec } } else { Codec::Fixed(codec) },
            service: service.transpose()?,
        })
    }

    pub(super) async fn ask(&self, probe: &mut Probe<'_>) -> CheckResult {
        let request = self.request(probe);
        match probe.exchange(request, self.codec).await {
            Ok(answer) => self.judge(&answer, probe),
            Err(Broken) => {
                probe.host.set_check_status(None);
                CheckResult::Failed(CheckFailure::of(FailureKind::Network))
            }
        }
    }

    fn request(&self, probe: &Probe<'_>) -> Request {
        let mut head = RequestHead {
            method: self.method.clone(),
            scheme: probe.scheme(),
            authority: authority(&self.host, probe),
            path: self.path.clone(),
            upgrade: None,
            headers: HeaderMap::new(),
            case: None,
        };
        head.headers.insert(header::USER_AGENT, USER_AGENT);
        self.headers.apply_to_request(&mut head, &info(probe.host));
        if !self.body.is_empty() {
            head.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(self.body.len()));
        }
        let keep = match (self.receive.is_empty(), self.buffer_size) {
            (true, _) => 0,
            (false, Some(size)) => size,
            (false, None) => probe.cluster.buffer_limit as usize,
        };
        Request { head, body: self.body.clone(), keep }
    }

    fn judge(&self, answer: &Answer, probe: &Probe<'_>) -> CheckResult {
        let headers = &answer.head.headers;
        let status = answer.head.status;
        probe.host.set_check_status(Some(status.as_u16()));
        let failed = |retriable, immediate| {
            let kind = FailureKind::Active;
            CheckResult::Failed(CheckFailure { kind, retriable, status: status.as_u16(), immediate })
        };
        let is_immediate = headers.contains_key(&*X_ENVOY_IMMEDIATE_HEALTH_CHECK_FAIL);
        if !self.receive.is_in(&answer.body) {
            return failed(false, is_immediate);
        }
        if !self.expected.have(status) {
            return failed(self.retriable.have(status), is_immediate);
        }
        if let Some(service) = &self.service
            && probe.cluster.runtime.number(VERIFY).unwrap_or(100) > fastrand::u64(..100)
        {
            probe.checker.stats.verify_cluster.inc();
            let named = headers.get(&*X_ENVOY_UPSTREAM_HEALTHCHECKED_CLUSTER);
            if !service.matches(named.map_or(&b""[..], HeaderValue::as_bytes)) {
                return failed(false, false);
            }
        }
        CheckResult::Passed { degraded: headers.contains_key(&*X_ENVOY_DEGRADED) }
    }
}

/// What a check calls the host: what its endpoint says, or the configuration of the checks, or else the name of the cluster.
pub(super) fn authority(configured: &str, probe: &Probe<'_>) -> Text {
    let own = probe.host.check.as_ref().map_or("", |check| &*check.hostname);
    let names = [own, configured, probe.cluster.name.as_str()];
    names.into_iter().find(|name| !name.is_empty()).unwrap_or_default().into()
}

/// What headers may refer to: nobody's stream to the host.
pub(super) fn info(host: &Arc<Host>) -> StreamInfo {
    let nobody = Rc::new(ConnectionInfo::new(NOBODY, NOBODY, Arc::default()));
    let mut info = StreamInfo::new(nobody, clock::now(), SystemTime::now());
    info.upstream.host = Some(host.clone());
    info
}

fn build_method(method: i32, cx: &mut BuildCx<'_>) -> Result<Method, Rejected> {
    let name = match RequestMethod::try_from(method) {
        Ok(RequestMethod::MethodUnspecified) => "GET",
        Ok(RequestMethod::Connect) | Err(_) => return Err(cx.reject("value must not be in list [CONNECT]")),
        Ok(method) => method.as_str_name(),
    };
    Method::from_bytes(name.as_bytes()).map_err(|_| cx.reject("not a method"))
}

fn takes_body(method: &Method) -> bool {
    !matches!(*method, Method::GET | Method::HEAD | Method::DELETE | Method::TRACE)
}

/// Why `use_alpn_protocol` is refused where hosts are not all spoken with over TLS.
const NO_ALPN: &str =
    "it is configured for the health check of a cluster which has a non-ALPN transport socket";
