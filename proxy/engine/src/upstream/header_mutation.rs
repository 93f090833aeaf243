//! Compiled `*_headers_to_add` and `*_headers_to_remove`.
//!
//! Removals come first; then all values are computed from the headers as they stand, overwriting ones are applied, then
//! the appending ones. Values are format strings; one that is empty adds nothing unless `keep_empty_value` is set.
//! Pseudo-headers and `host` cannot be changed this way: rewrites do that. Framing and hop-by-hop headers cannot either:
//! the codecs write them.
//! Source: Envoy `docs/root/configuration/http/http_conn_man/headers.rst`, "Custom request/response headers".

use http::header::{self, HeaderMap, HeaderName};
use proxy_core::config::{BuildCx, Rejected};
use proxy_core::extension::access_log::LogEntry;
use proxy_core::field_names::{joins_in_request, joins_in_response};
use proxy_core::head::{RequestHead, ResponseHead};
use proxy_core::header_append::{Appends, write};
use proxy_core::headers::{KEEP_ALIVE, PROXY_CONNECTION, envoy_prefix};
use proxy_core::stream_info::StreamInfo;
use xds_api::envoy::config::core::v3 as proto;

/// What values may refer to.
#[derive(Clone, Copy)]
pub struct MutationContext<'a> {
    /// The request, as far as it is at hand.
    pub request: Option<&'a RequestHead>,
    /// What is known about the stream.
    pub info: &'a StreamInfo,
}

/// The header mutations of one level; costs nothing when there are none.
#[derive(Debug, Default)]
pub struct HeaderMutations(Option<Box<Mutations>>);

#[derive(Debug)]
struct Mutations {
    remove: Box<[HeaderName]>,
    add: Appends,
    /// Some of what is added may ask something of the router.
    asks: bool,
}

impl HeaderMutations {
    /// Builds from `request_headers_to_add` and `request_headers_to_remove`.
    pub fn build_request(
        add: &[proto::HeaderValueOption],
        remove: &[String],
        cx: &mut BuildCx<'_>,
    ) -> Result<Self, Rejected> {
        Self::build("request_headers_to_add", add, "request_headers_to_remove", remove, cx)
    }

    /// Builds from `response_headers_to_add` and `response_headers_to_remove`.
    pub fn build_response(
        add: &[proto::HeaderValueOption],
        remove: &[String],
        cx: &mut BuildCx<'_>,
    ) -> Result<Self, Rejected> {
        Self::build("response_headers_to_add", add, "response_headers_to_remove", remove, cx)
    }

    /// Builds from the `initial_metadata` of a gRPC call.
    pub(crate) fn build_metadata(
        add: &[proto::HeaderValueOption],
        cx: &mut BuildCx<'_>,
    ) -> Result<Self, Rejected> {
        Self::build("initial_metadata", add, "", &[], cx)
    }

    fn build(
        add_field: &'static str,
        add: &[proto::HeaderValueOption],
        remove_field: &'static str,
        remove: &[String],
        cx: &mut BuildCx<'_>,
    ) -> Result<Self, Rejected> {
        if add.is_empty() && remove.is_empty() {
            return Ok(Self(None));
        }
        let framed = cx.each(add_field, add, refuse_framing);
        let add = Appends::build(add_field, add, cx);
        let remove = cx.each(remove_field, remove, |name, cx| {
            if name.starts_with(':') || name.eq_ignore_ascii_case("host") {
                return Err(cx.reject(":-prefixed or host headers may not be removed"));
            }
            HeaderName::from_bytes(name.as_bytes())
                .map_err(|_| cx.reject(format!("'{name}' is not a header name")))
        });
        framed?;
        let add = add?;
        let asks = add.iter().any(|append| append.name().as_str().starts_with(envoy_prefix()));
        Ok(Self(Some(Box::new(Mutations { add, remove: remove?.into(), asks }))))
    }

    /// Whether some of the headers that they add may ask something of the router.
    pub(crate) fn ask_router(&self) -> bool {
        self.0.as_ref().is_some_and(|mutations| mutations.asks)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Changes the headers of `request`.
    pub fn apply_to_request(&self, request: &mut RequestHead, info: &StreamInfo) {
        let Some(mutations) = &self.0 else { return };
        mutations.remove_from(&mut request.headers);
        let entry = entry(Some(request), None, info);
        let additions = mutations.add.prepare(&request.headers, &entry);
        write(additions, &mut request.headers, joins_in_request);
    }

    /// Changes the headers of `response`.
    pub fn apply_to_response(&self, response: &mut ResponseHead, context: MutationContext<'_>) {
        let Some(mutations) = &self.0 else { return };
        mutations.remove_from(&mut response.headers);
        let entry = entry(context.request, Some(response), context.info);
        let additions = mutations.add.prepare(&response.headers, &entry);
        write(additions, &mut response.headers, joins_in_response);
    }
}

/// What formats may print of a request or a response on its way.
pub(crate) fn entry<'a>(
    request: Option<&'a RequestHead>,
    response: Option<&'a ResponseHead>,
    info: &'a StreamInfo,
) -> LogEntry<'a> {
    LogEntry { request, response, ..LogEntry::of(info) }
}

impl Mutations {
    fn remove_from(&self, headers: &mut HeaderMap) {
        for name in &self.remove {
            headers.remove(name);
        }
    }
}

fn refuse_framing(proto: &proto::HeaderValueOption, cx: &mut BuildCx<'_>) -> Result<(), Rejected> {
    let name = proto.header.as_ref().and_then(|header| HeaderName::from_bytes(header.key.as_bytes()).ok());
    let Some(name) = name.filter(is_framing) else { return Ok(()) };
    Err(cx.at("header", |cx| {
        cx.reject(format!("key: '{name}' belongs to the connection and is written by the codec"))
    }))
}

/// Headers of one connection, or that say where a message ends.
fn is_framing(name: &HeaderName) -> bool {
    *name == header::CONNECTION
        || *name == header::CONTENT_LENGTH
        || *name == header::TRANSFER_ENCODING
        || *name == header::UPGRADE
        || *name == KEEP_ALIVE
        || *name == PROXY_CONNECTION
}

#[cfg(test)]
mod tests;
