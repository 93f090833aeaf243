//! `envoy.config.core.v3.HeaderValueOption`: headers to add, whose values may be formats.

use http::header::{HeaderMap, HeaderName, HeaderValue};
use proxy_core::config::{BuildCx, Rejected};
use proxy_core::extension::access_log::LogEntry;
use proxy_core::format::{Empty, Format};
use smallvec::SmallVec;
use xds_api::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use xds_api::envoy::config::core::v3::{HeaderValue as ProtoHeader, HeaderValueOption};

/// Headers to add.
#[derive(Debug, Default)]
pub struct Appends(Box<[Append]>);

impl Appends {
    /// Builds from a repeated field.
    pub fn build(
        field: &'static str,
        protos: &[HeaderValueOption],
        cx: &mut BuildCx<'_>,
    ) -> Result<Self, Rejected> {
        Ok(Self(cx.each(field, protos, Append::build)?.into()))
    }

    /// Adds them: what takes the place of others first. Values are of the headers as they stand before.
    pub fn apply(&self, headers: &mut HeaderMap, entry: &LogEntry<'_>) {
        Self::write(self.prepare(headers, entry), headers);
    }

    /// What they add to `headers`.
    pub fn prepare(&self, headers: &HeaderMap, entry: &LogEntry<'_>) -> SmallVec<[Addition<'_>; 2]> {
        self.0.iter().filter_map(|append| append.prepare(headers, entry)).collect()
    }

    /// Adds what was prepared.
    pub fn write(mut additions: SmallVec<[Addition<'_>; 2]>, headers: &mut HeaderMap) {
        additions.sort_by_key(|addition| !addition.overwrites);
        for addition in additions {
            addition.apply(headers);
        }
    }
}

/// A header to be added, or to take the place of what is there.
#[derive(Debug)]
pub struct Append {
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

/// A header as it is added.
pub struct Addition<'a> {
    name: &'a HeaderName,
    value: HeaderValue,
    overwrites: bool,
}

impl Append {
    /// Builds from the message.
    #[allow(deprecated, reason = "control planes still send `append`")]
    pub fn build(proto: &HeaderValueOption, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let HeaderValueOption { header, append, append_action, keep_empty_value } = proto;
        let Some(ProtoHeader { key, value, raw_value }) = header else {
            return Err(cx.at("header", |cx| cx.reject("value is required")));
        };
        if key.starts_with(':') || key.eq_ignore_ascii_case("host") {
            return Err(cx.reject(":-prefixed or host headers may not be modified"));
        }
        let name = HeaderName::try_from(key.as_str()).map_err(|_| {
            cx.at("header", |cx| cx.at("key", |cx| cx.reject(format!("'{key}' is not a header name"))))
        })?;
        let action = HeaderAppendAction::try_from(*append_action)
            .map_err(|_| cx.at("append_action", |cx| cx.reject("not a defined value")))?;
        let action = match append {
            None => action,
            Some(_) if action != HeaderAppendAction::AppendIfExistsOrAdd => {
                return Err(cx.reject("append and append_action must not both be set"));
            }
            Some(true) => HeaderAppendAction::AppendIfExistsOrAdd,
            Some(false) => HeaderAppendAction::OverwriteIfExistsOrAdd,
        };
        let value = cx.at("header", |cx| match value.is_empty() && !raw_value.is_empty() {
            true => cx.at("raw_value", |cx| Value::constant(raw_value, cx)),
            false => cx.at("value", |cx| Value::build(value, cx)),
        })?;
        Ok(Self { name, value, action, keep_empty: *keep_empty_value })
    }

    /// What it adds; `entry` is what its value may refer to.
    pub fn prepare(&self, headers: &HeaderMap, entry: &LogEntry<'_>) -> Option<Addition<'_>> {
        let exists = headers.contains_key(&self.name);
        let overwrites = match self.action {
            HeaderAppendAction::AppendIfExistsOrAdd => false,
            HeaderAppendAction::AddIfAbsent if exists => return None,
            HeaderAppendAction::AddIfAbsent => false,
            HeaderAppendAction::OverwriteIfExists if !exists => return None,
            HeaderAppendAction::OverwriteIfExists | HeaderAppendAction::OverwriteIfExistsOrAdd => true,
        };
        let value = self.value.render(entry).filter(|value| self.keep_empty || !value.is_empty())?;
        Some(Addition { name: &self.name, value, overwrites })
    }
}

impl Addition<'_> {
    /// Writes it.
    pub fn apply(self, headers: &mut HeaderMap) {
        match self.overwrites {
            true => {
                headers.insert(self.name, self.value);
            }
            false => {
                headers.append(self.name, self.value);
            }
        }
    }
}

impl Value {
    fn build(text: &str, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let format = Format::parse_with(text, Empty::Omit).map_err(|reason| cx.reject(reason))?;
        match format.constant() {
            Some(constant) => Self::constant(constant.as_bytes(), cx),
            None => Ok(Self::Format(format)),
        }
    }

    fn constant(bytes: &[u8], cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        HeaderValue::from_bytes(bytes)
            .map(Self::Constant)
            .map_err(|_| cx.reject("value has characters that a header cannot have"))
    }

    /// The value; `None` if what came out cannot stand in a header.
    fn render(&self, entry: &LogEntry<'_>) -> Option<HeaderValue> {
        match self {
            Self::Constant(value) => Some(value.clone()),
            Self::Format(format) => {
                let mut value = Vec::new();
                format.render(entry, &mut value);
                HeaderValue::from_maybe_shared(bytes::Bytes::from(value)).ok()
            }
        }
    }
}
