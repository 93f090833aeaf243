//! Compiled `*_headers_to_add` and `*_headers_to_remove`.
//!
//! Removals come first; then all values are computed from the headers as they stand, overwriting ones are applied, then
//! the appending ones. Values are format strings; one that is empty adds nothing unless `keep_empty_value` is set.
//! Pseudo-headers and `host` cannot be changed this way: rewrites do that. Framing and hop-by-hop headers cannot either:
//! the codecs write them.
//! Source: Envoy `docs/root/configuration/http/http_conn_man/headers.rst`, "Custom request/response headers".

use std::borrow::Cow;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use proxy_core::config::{BuildCx, Rejected};
use proxy_core::extension::access_log::{LogEntry, LogType};
use proxy_core::format::{Empty, Format};
use proxy_core::head::{RequestHead, ResponseHead};
use proxy_core::headers::{KEEP_ALIVE, PROXY_CONNECTION, envoy_prefix};
use proxy_core::matcher::header::joined;
use proxy_core::stream_info::StreamInfo;
use smallvec::SmallVec;
use xds_api::envoy::config::core::v3 as proto;
use xds_api::envoy::config::core::v3::header_value_option::HeaderAppendAction;

use crate::codec::h1::{joins_in_request, joins_in_response};

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
    add: Box<[Addition]>,
    /// Some of what is added may ask something of the router.
    asks: bool,
}

#[derive(Debug)]
struct Addition {
    name: HeaderName,
    value: Value,
    action: HeaderAppendAction,
    keep_empty: bool,
}

#[derive(Debug)]
enum Value {
    Constant(HeaderValue),
    Format(Format),
}

/// A value computed and waiting to be written.
struct Pending<'m> {
    name: &'m HeaderName,
    value: HeaderValue,
    overwrite: bool,
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
        let add = cx.each(add_field, add, Addition::build);
        let remove = cx.each(remove_field, remove, |name, cx| {
            if name.starts_with(':') || name.eq_ignore_ascii_case("host") {
                return Err(cx.reject(":-prefixed or host headers may not be removed"));
            }
            HeaderName::from_bytes(name.as_bytes())
                .map_err(|_| cx.reject(format!("'{name}' is not a header name")))
        });
        let add: Box<[Addition]> = add?.into();
        let asks = add.iter().any(|addition| addition.name.as_str().starts_with(envoy_prefix()));
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
        let pending = mutations.compute(&request.headers, &entry);
        write(pending, &mut request.headers, joins_in_request);
    }

    /// Changes the headers of `response`.
    pub fn apply_to_response(&self, response: &mut ResponseHead, context: MutationContext<'_>) {
        let Some(mutations) = &self.0 else { return };
        mutations.remove_from(&mut response.headers);
        let entry = entry(context.request, Some(response), context.info);
        let pending = mutations.compute(&response.headers, &entry);
        write(pending, &mut response.headers, joins_in_response);
    }
}

/// What formats may print of a request or a response on its way.
pub(crate) fn entry<'a>(
    request: Option<&'a RequestHead>,
    response: Option<&'a ResponseHead>,
    info: &'a StreamInfo,
) -> LogEntry<'a> {
    LogEntry {
        request,
        response,
        response_trailers: None,
        info,
        local_reply_body: "",
        log_type: LogType::NotSet,
    }
}

impl Mutations {
    fn remove_from(&self, headers: &mut HeaderMap) {
        for name in &self.remove {
            headers.remove(name);
        }
    }

    fn compute(&self, headers: &HeaderMap, entry: &LogEntry<'_>) -> SmallVec<[Pending<'_>; 4]> {
        let mut pending = SmallVec::new();
        for addition in &self.add {
            let exists = headers.contains_key(&addition.name);
            let overwrite = match addition.action {
                HeaderAppendAction::AppendIfExistsOrAdd => false,
                HeaderAppendAction::AddIfAbsent if exists => continue,
                HeaderAppendAction::AddIfAbsent => false,
                HeaderAppendAction::OverwriteIfExists if !exists => continue,
                HeaderAppendAction::OverwriteIfExists | HeaderAppendAction::OverwriteIfExistsOrAdd => true,
            };
            let Some(value) = addition.value.render(entry) else { continue };
            if value.is_empty() && !addition.keep_empty {
                continue;
            }
            pending.push(Pending { name: &addition.name, value, overwrite });
        }
        pending
    }
}

fn write(pending: SmallVec<[Pending<'_>; 4]>, headers: &mut HeaderMap, joins: fn(&HeaderName) -> bool) {
    for Pending { name, value, .. } in pending.iter().filter(|pending| pending.overwrite) {
        headers.insert(*name, value.clone());
    }
    for Pending { name, value, overwrite } in pending {
        if overwrite {
            continue;
        }
        match joined(headers, name).filter(|_| joins(name)) {
            None => {
                headers.append(name, value);
            }
            Some(old) => {
                let all = [&*old, b",", value.as_bytes()].concat();
                // Two valid values and a comma always make a valid one.
                headers.insert(name, HeaderValue::from_maybe_shared(Bytes::from(all)).unwrap_or(value));
            }
        }
    }
}

impl Addition {
    fn build(proto: &proto::HeaderValueOption, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        #[allow(deprecated, reason = "still sent by control planes")]
        let proto::HeaderValueOption { header, append, append_action, keep_empty_value } = proto;
        let Some(proto::HeaderValue { key, value, raw_value }) = header else {
            return Err(cx.at("header", |cx| cx.reject("value is required")));
        };
        if key.starts_with(':') || key.eq_ignore_ascii_case("host") {
            return Err(cx.reject(":-prefixed or host headers may not be modified"));
        }
        let name = HeaderName::from_bytes(key.as_bytes())
            .map_err(|_| cx.at("header", |cx| cx.reject(format!("key: '{key}' is not a header name"))))?;
        if is_framing(&name) {
            return Err(cx.at("header", |cx| {
                cx.reject(format!("key: '{name}' belongs to the connection and is written by the codec"))
            }));
        }
        let action = HeaderAppendAction::try_from(*append_action).map_err(|_| {
            cx.at("append_action", |cx| cx.reject("value must be one of the defined enum values"))
        })?;
        let action = match append {
            None => action,
            Some(_) if action != HeaderAppendAction::AppendIfExistsOrAdd => {
                return Err(cx.reject("Both append and append_action are set and it's not allowed"));
            }
            Some(true) => HeaderAppendAction::AppendIfExistsOrAdd,
            Some(false) => HeaderAppendAction::OverwriteIfExistsOrAdd,
        };
        let value = cx.at("header", |cx| match value.is_empty() && !raw_value.is_empty() {
            true => cx.at("raw_value", |cx| Value::constant(Bytes::copy_from_slice(raw_value), cx)),
            false => Value::build(value, cx),
        })?;
        Ok(Self { name, value, action, keep_empty: *keep_empty_value })
    }
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

impl Value {
    fn build(text: &str, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let format = parse(text).map_err(|reason| cx.reject(format!("value: {reason}")))?;
        match format.constant() {
            Some(constant) => Self::constant(Bytes::copy_from_slice(constant.as_bytes()), cx),
            None => Ok(Self::Format(format)),
        }
    }

    fn constant(value: Bytes, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        HeaderValue::from_maybe_shared(value)
            .map(Self::Constant)
            .map_err(|_| cx.reject("value has characters that a header cannot have"))
    }

    /// The value; `None` if it cannot stand in a header.
    fn render(&self, entry: &LogEntry<'_>) -> Option<HeaderValue> {
        match self {
            Self::Constant(value) => Some(value.clone()),
            Self::Format(format) => {
                let mut value = Vec::new();
                format.render(entry, &mut value);
                HeaderValue::from_maybe_shared(Bytes::from(value)).ok()
            }
        }
    }
}

/// The format of a header value.
pub(crate) fn parse(text: &str) -> Result<Format, String> {
    Format::parse_with(&modern(text), Empty::Omit)
}

/// Operators that only header formats know: how each begins and ends.
const OLD_FORMS: [(&str, &str); 3] =
    [("%DYNAMIC_METADATA([", "])%"), ("%UPSTREAM_METADATA([", "])%"), ("%PER_REQUEST_STATE(", ")%")];

/// Rewrites what only header formats know: `%DYNAMIC_METADATA(["a","b"])%` means `%DYNAMIC_METADATA(a:b)%`, and
/// `%PER_REQUEST_STATE(key)%` means `%FILTER_STATE(key:PLAIN)%`.
fn modern(text: &str) -> Cow<'_, str> {
    let mut out = String::new();
    let mut rest = text;
    while let Some((at, open, close)) = first_old_form(rest) {
        let (before, found) = rest.split_at(at);
        out.push_str(before);
        let (arguments, after) =
            found.get(open.len()..).and_then(|inside| inside.split_once(close)).unwrap_or_default();
        match open.strip_suffix("([") {
            Some(operator) => {
                let keys: Vec<&str> = arguments.split(',').map(|key| key.trim().trim_matches('"')).collect();
                out.push_str(&format!("{operator}({})%", keys.join(":")));
            }
            None => out.push_str(&format!("%FILTER_STATE({arguments}:PLAIN)%")),
        }
        rest = after;
    }
    if out.is_empty() {
        return Cow::Borrowed(rest);
    }
    out.push_str(rest);
    Cow::Owned(out)
}

/// Where the first of them is, with its beginning and its end.
fn first_old_form(text: &str) -> Option<(usize, &'static str, &'static str)> {
    let found = OLD_FORMS.iter().filter_map(|(open, close)| {
        let at = text.find(open)?;
        text.get(at + open.len()..)?.contains(close).then_some((at, *open, *close))
    });
    found.min()
}

#[cfg(test)]
mod tests;
