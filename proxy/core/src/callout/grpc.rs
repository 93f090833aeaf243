//! Calls of gRPC: a `GrpcService` of the configuration, and messages as bodies.
//!
//! Source: `envoy/config/core/v3/grpc_service.proto`; gRPC `PROTOCOL-HTTP2.md`; Envoy `source/common/grpc/async_client_impl.cc`.

use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use prost::Message;
use xds_api::envoy::config::core::v3 as proto;
use xds_api::envoy::config::core::v3::grpc_service::TargetSpecifier;

use super::{Answer, Call, CallFailure, Called, EnvoyHeaders, MAX_RESPONSE_BYTES};
use crate::config::{BuildCx, Rejected, duration};
use crate::extension::access_log::LogEntry;
use crate::format::{Empty, Format};
use crate::grpc::status_in;
use crate::head::{RequestHead, Scheme};
use crate::headers::GRPC_TIMEOUT;
use crate::local_reply::grpc_status_of;
use crate::names::Name;
use crate::retry::RetryPolicy;
use crate::stream_info::StreamInfo;
use crate::text::Text;

/// Length of what stands before each message: a flag and the message's length.
const PREFIX: usize = 5;

/// The flag of a message that is compressed.
const COMPRESSED: u8 = 1;

/// `grpc-status` where things went wrong on this side.
const UNKNOWN: u32 = 2;
const INTERNAL: u32 = 13;

/// A service that is called over a cluster.
#[derive(Debug)]
pub struct GrpcService {
    /// The cluster.
    pub cluster: Name,
    authority: Text,
    timeout: Option<Duration>,
    initial_metadata: Vec<(HeaderName, Metadatum)>,
    max_message: usize,
    envoy_headers: EnvoyHeaders,
    retry: Option<Arc<RetryPolicy>>,
}

#[derive(Debug)]
enum Metadatum {
    Constant(HeaderValue),
    Format(Format),
}

impl GrpcService {
    /// Builds from `proto`; without a timeout of its own it has `default_timeout`.
    pub fn build(
        proto: &proto::GrpcService,
        default_timeout: Option<Duration>,
        cx: &mut BuildCx<'_>,
    ) -> Result<Self, Rejected> {
        let proto::GrpcService { timeout, initial_metadata, retry_policy, target_specifier } = proto;
        let retry = retry_policy
            .as_ref()
            .map(|policy| cx.at("retry_policy", |cx| RetryPolicy::of_calls(policy, None, cx)))
            .transpose();
        let Some(TargetSpecifier::EnvoyGrpc(target)) = target_specifier else {
            return Err(cx.at("google_grpc", |cx| cx.reject("use envoy_grpc")));
        };
        let proto::grpc_service::EnvoyGrpc {
            cluster_name,
            authority,
            retry_policy,
            max_receive_message_length,
            skip_envoy_headers,
        } = target;
        cx.at("envoy_grpc", |cx| {
            if cluster_name.is_empty() {
                let reason = "value length must be at least 1 characters";
                return Err(cx.at("cluster_name", |cx| cx.reject(reason)));
            }
            cx.reject_if(
                retry_policy.is_some(),
                "retry_policy",
                "it is of streams to a control plane: use that of the service",
            )
        })?;
        let Some(sent) = xds_api::authority(cluster_name, authority) else {
            let reason = format!("'{authority}' is no authority");
            return Err(cx.at("envoy_grpc", |cx| cx.at("authority", |cx| cx.reject(reason))));
        };
        let max_message = max_receive_message_length.filter(|length| *length > 0);
        Ok(Self {
            retry: retry?.map(Arc::new),
            cluster: cx.env.clusters.intern(cluster_name),
            authority: sent.as_str().into(),
            timeout: match timeout {
                None => default_timeout,
                Some(timeout) => duration(timeout).filter(|timeout| !timeout.is_zero()),
            },
            initial_metadata: cx.each("initial_metadata", initial_metadata, build_metadatum)?,
            max_message: max_message.map_or(MAX_RESPONSE_BYTES, |length| length as usize),
            envoy_headers: match skip_envoy_headers {
                true => EnvoyHeaders::Skipped,
                false => EnvoyHeaders::InternalAndForwarded,
            },
        })
    }

    /// The same with this timeout in place of its own.
    #[must_use]
    pub fn with_timeout(self, timeout: Option<Duration>) -> Self {
        Self { timeout, ..self }
    }

    /// The call that sends `message` to `path` (`/package.Service/Method`) for the stream that `info` describes.
    pub fn call(&self, path: &'static str, message: &impl Message, info: &StreamInfo) -> Call {
        self.call_with(path, frames(std::slice::from_ref(message)), info)
    }

    /// The call that sends all of `messages`, for nobody's stream.
    pub fn call_of_nobody<M: Message>(&self, path: &'static str, messages: &[M]) -> Call {
        self.call_with(path, frames(messages), &StreamInfo::of_nobody())
    }

    /// The head of a call whose messages go both ways ([`super::Talk`]), for nobody's stream and without a deadline.
    pub fn talk(&self, path: &'static str) -> Call {
        let call = self.call_with(path, Bytes::new(), &StreamInfo::of_nobody());
        Call { timeout: None, retry: None, ..call }
    }

    fn call_with(&self, path: &'static str, body: Bytes, info: &StreamInfo) -> Call {
        let mut headers = HeaderMap::with_capacity(8);
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
        if let Some(timeout) = self.timeout {
            headers.insert(&GRPC_TIMEOUT, grpc_timeout(timeout));
        }
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        for (name, value) in &self.initial_metadata {
            if let Some(value) = value.render(info) {
                headers.insert(name.clone(), value);
            }
        }
        let request = RequestHead {
            method: Method::POST,
            scheme: Scheme::Http,
            authority: self.authority.clone(),
            path: Text::from_static(path),
            upgrade: None,
            case: None,
            headers,
        };
        Call {
            timeout: self.timeout,
            max_response_bytes: self.max_message.saturating_add(PREFIX),
            envoy_headers: self.envoy_headers,
            retry: self.retry.clone(),
            is_framed: true,
            ..Call::new(self.cluster.clone(), request, body)
        }
    }
}

fn build_metadatum(
    proto: &proto::HeaderValue,
    cx: &mut BuildCx<'_>,
) -> Result<(HeaderName, Metadatum), Rejected> {
    let proto::HeaderValue { key, value, raw_value } = proto;
    let name = HeaderName::from_bytes(key.as_bytes())
        .map_err(|_| cx.at("key", |cx| cx.reject(format!("'{key}' is not a header name"))))?;
    let constant = |value: &[u8], cx: &mut BuildCx<'_>| {
        HeaderValue::from_bytes(value)
            .map(Metadatum::Constant)
            .map_err(|_| cx.reject("value has characters that a header cannot have"))
    };
    if value.is_empty() && !raw_value.is_empty() {
        return Ok((name, cx.at("raw_value", |cx| constant(raw_value, cx))?));
    }
    let value = cx.at("value", |cx| {
        let format = Format::parse_with(value, Empty::Omit).map_err(|reason| cx.reject(reason))?;
        match format.constant() {
            Some(text) => constant(text.as_bytes(), cx),
            None => Ok(Metadatum::Format(format)),
        }
    })?;
    Ok((name, value))
}

impl Metadatum {
    /// The value; `None` if it cannot stand in a header.
    fn render(&self, info: &StreamInfo) -> Option<HeaderValue> {
        let format = match self {
            Self::Constant(value) => return Some(value.clone()),
            Self::Format(format) => format,
        };
        let entry = LogEntry::of(info);
        let mut value = Vec::new();
        format.render(&entry, &mut value);
        HeaderValue::from_maybe_shared(Bytes::from(value)).ok()
    }
}

/// Messages as they stand in a body.
fn frames(messages: &[impl Message]) -> Bytes {
    let mut body = BytesMut::new();
    for message in messages {
        let length = message.encoded_len();
        body.reserve(PREFIX + length);
        body.put_u8(0);
        body.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
        // (It has room for all of it.)
        let _ = message.encode(&mut body);
    }
    body.freeze()
}

/// A message as it stands in a body.
pub fn frame(message: &impl Message) -> Bytes {
    frames(std::slice::from_ref(message))
}

/// `grpc-timeout`: at most eight digits and the finest unit that they suffice for.
fn grpc_timeout(timeout: Duration) -> HeaderValue {
    const MOST: u128 = 99_999_999;
    let millis = timeout.as_millis();
    let text = match millis {
        0..=MOST => format!("{millis}m"),
        _ if millis / 1000 <= MOST => format!("{}S", millis / 1000),
        _ if millis / 60_000 <= MOST => format!("{}M", millis / 60_000),
        _ => format!("{}H", (millis / 3_600_000).min(MOST)),
    };
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("0m"))
}

/// The message that a unary call was answered with, or else its `grpc-status`.
///
/// # Errors
/// What the service said, or what the failure amounts to.
pub fn message<M: Message + Default>(called: &Called) -> Result<M, u32> {
    let answer = match called {
        Ok(answer) => answer,
        Err(CallFailure::TooLarge) => return Err(INTERNAL),
        Err(failure) => return Err(grpc_status_of(failure.status())),
    };
    let is_ok = answer.head.status == StatusCode::OK;
    let last = last_message(&answer.body);
    if is_ok && last.is_err() {
        return Err(INTERNAL);
    }
    match status(answer) {
        Some(0) => {}
        Some(status) => return Err(status),
        None => return Err(UNKNOWN),
    }
    let payload = last.ok().flatten().ok_or(INTERNAL)?;
    M::decode(payload).map_err(|_| INTERNAL)
}

/// `grpc-status` of an answer: of its trailers, of a head that is all there is, or what its status amounts to.
fn status(answer: &Answer) -> Option<u32> {
    if let Some(status) = answer.trailers.as_ref().and_then(status_in) {
        return Some(status);
    }
    match answer.head.status {
        StatusCode::OK if answer.trailers.is_none() && answer.body.is_empty() => {
            status_in(&answer.head.headers)
        }
        StatusCode::OK => None,
        status => Some(status_in(&answer.head.headers).unwrap_or_else(|| grpc_status_of(status))),
    }
}

/// The messages of an answer as it comes in.
#[derive(Debug, Default)]
pub struct Frames {
    /// Where the next message begins.
    at: usize,
}

/// What is no message, or one that is compressed: nobody asked for that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadFrame;

impl Frames {
    /// The next message of `body`, which is all that came so far; `None` as long as it is not all there.
    ///
    /// # Errors
    /// What comes next is no message that was asked for.
    pub fn next<'b>(&mut self, body: &'b [u8]) -> Result<Option<&'b [u8]>, BadFrame> {
        let body = body.get(self.at..).unwrap_or_default();
        let Some(&flag) = body.first() else { return Ok(None) };
        if flag > COMPRESSED {
            return Err(BadFrame);
        }
        let Some(([_, length @ ..], rest)) = body.split_first_chunk::<PREFIX>() else { return Ok(None) };
        let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
        let Some(message) = rest.get(..length) else { return Ok(None) };
        // (Nothing is the same compressed.)
        if flag == COMPRESSED && length > 0 {
            return Err(BadFrame);
        }
        self.at += PREFIX + length;
        Ok(Some(message))
    }
}

/// Takes the first message off `body`; `None` as long as it is not all there.
///
/// # Errors
/// What stands there is no message that was asked for.
pub fn take_message(body: &mut BytesMut) -> Result<Option<Bytes>, BadFrame> {
    let mut frames = Frames::default();
    let Some(length) = frames.next(body)?.map(<[u8]>::len) else { return Ok(None) };
    let mut whole = body.split_to(frames.at);
    Ok(Some(whole.split_off(whole.len() - length).freeze()))
}

/// The last message in `body`, if there is one; what began after it counts for nothing, as in Envoy.
fn last_message(body: &[u8]) -> Result<Option<&[u8]>, BadFrame> {
    let (mut frames, mut last) = (Frames::default(), None);
    while let Some(message) = frames.next(body)? {
        last = Some(message);
    }
    Ok(last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::BuildEnv;

    #[test]
    fn calls_name_an_authority_that_can_be_sent() {
        let of = |cluster: &str, authority: &str| {
            let target = proto::grpc_service::EnvoyGrpc {
                cluster_name: cluster.to_owned(),
                authority: authority.to_owned(),
                ..Default::default()
            };
            let service = proto::GrpcService {
                target_specifier: Some(TargetSpecifier::EnvoyGrpc(target)),
                ..Default::default()
            };
            let env = BuildEnv::new(1);
            let mut cx = BuildCx::new(&env);
            let built = GrpcService::build(&service, None, &mut cx).map(|built| built.authority.to_string());
            built.map_err(|_| cx.into_errors().iter().map(ToString::to_string).collect::<String>())
        };
        assert_eq!(of("limits", "").as_deref(), Ok("limits"));
        assert_eq!(of("outbound|80||a.b", "").as_deref(), Ok("outbound_80__a.b"));
        assert_eq!(of("outbound|80||a.b", "a.b:80").as_deref(), Ok("a.b:80"));
        assert_eq!(of("limits", "a b"), Err("envoy_grpc.authority: 'a b' is no authority".to_owned()));
    }

    #[test]
    fn a_message_is_framed_and_found_again() {
        let message = prost_types::Duration { seconds: 7, nanos: 5 };
        let body = frames(std::slice::from_ref(&message));
        let (prefix, rest) = body.split_at(PREFIX);
        assert_eq!(prefix, [0, 0, 0, 0, u8::try_from(rest.len()).unwrap()]);
        let seconds = |body: &[u8]| {
            let last = last_message(body).unwrap().unwrap();
            prost_types::Duration::decode(last).unwrap().seconds
        };
        assert_eq!(seconds(&body), 7);
        let twice = frames(&[message, prost_types::Duration { seconds: 8, nanos: 0 }]);
        assert_eq!(seconds(&twice), 8);
        assert_eq!(seconds(&twice[..twice.len() - 1]), 7);
        assert_eq!(seconds(&[&body[..], b"\0\0\0"].concat()), 7);
    }

    #[test]
    fn what_is_no_message_is_none() {
        let unfinished = [
            &b""[..],
            b"\0",
            b"\x01",
            b"\0\0\0\0",
            b"\0\0\0\0\x02a",
            b"\x01\0\0\0\x02a",
            b"\0\xff\xff\xff\xff",
        ];
        for body in unfinished {
            assert_eq!(last_message(body), Ok(None), "{body:?}");
        }
        for body in [&b"\x02"[..], b"<html>", b"\x01\0\0\0\x01a", b"\0\0\0\0\0\xff"] {
            assert_eq!(last_message(body), Err(BadFrame), "{body:?}");
        }
        for body in [b"\0\0\0\0\0", b"\x01\0\0\0\0"] {
            assert_eq!(last_message(body), Ok(Some(&b""[..])));
        }
    }

    #[test]
    fn messages_are_found_as_they_come() {
        let body = b"\0\0\0\0\x02ab\0\0\0\0\x01c\x07";
        let mut frames = Frames::default();
        let mut found = Vec::new();
        for end in 0..body.len() {
            while let Some(message) = frames.next(&body[..end]).unwrap() {
                found.push((end, message));
            }
        }
        assert_eq!(found, [(7, &b"ab"[..]), (13, b"c")]);
        assert_eq!(frames.next(body), Err(BadFrame));
    }

    #[test]
    fn messages_are_taken_off() {
        let mut body = BytesMut::from(&b"\0\0\0\0\x02ab\0\0\0\0\0\0\0\0\0\x01"[..]);
        assert_eq!(take_message(&mut body), Ok(Some(Bytes::from_static(b"ab"))));
        assert_eq!(take_message(&mut body), Ok(Some(Bytes::new())));
        assert_eq!(take_message(&mut body), Ok(None));
        body.extend_from_slice(b"c\x07");
        assert_eq!(take_message(&mut body), Ok(Some(Bytes::from_static(b"c"))));
        assert_eq!(take_message(&mut body), Err(BadFrame));
    }

    #[test]
    fn timeouts_fit_in_eight_digits() {
        for (seconds, text) in
            [(0, "0m"), (99_999, "99999000m"), (100_000, "100000S"), (100_000_000, "1666666M")]
        {
            assert_eq!(grpc_timeout(Duration::from_secs(seconds)), text);
        }
        assert_eq!(grpc_timeout(Duration::MAX).len(), 9);
    }
}
