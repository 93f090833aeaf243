//! One mutation of headers: computed from the headers as they stand, then applied.

use http::header::{HeaderMap, HeaderName, HeaderValue};
use proxy_core::config::{BuildCx, Rejected};
use proxy_core::extension::access_log::LogEntry;
use proxy_core::format::{Empty, Format};
use proxy_core::matcher::StringMatcher;
use xds_api::envoy::config::common::mutation_rules::v3 as proto;
use xds_api::envoy::config::common::mutation_rules::v3::header_mutation::Action;
use xds_api::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use xds_api::envoy::config::core::v3::{HeaderValue as ProtoHeader, HeaderValueOption};

/// A change of one header, or of all whose names match.
#[derive(Debug)]
pub(super) enum Mutation {
    Remove(HeaderName),
    RemoveMatching(StringMatcher),
    Append(Append),
    /// Nothing: a name that no header can have.
    Nothing,
}

#[derive(Debug)]
pub(super) struct Append {
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

/// What a mutation does to the headers at hand.
pub(super) enum Change<'m> {
    Nothing,
    Remove(&'m HeaderName),
    RemoveMatching(&'m StringMatcher),
    Append(&'m HeaderName, HeaderValue),
    Overwrite(&'m HeaderName, HeaderValue),
}

impl Mutation {
    pub(super) fn build(proto: proto::HeaderMutation, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        match proto.action {
            None => Err(cx.reject("action: value is required")),
            Some(Action::Remove(name)) => cx.at("remove", |cx| {
                if name.starts_with(':') || name.eq_ignore_ascii_case("host") {
                    return Err(cx.reject(":-prefixed or host headers may not be removed"));
                }
                Ok(HeaderName::try_from(name).map_or(Self::Nothing, Self::Remove))
            }),
            Some(Action::RemoveOnMatch(remove)) => cx.at("remove_on_match", |cx| {
                let Some(matcher) = &remove.key_matcher else {
                    return Err(cx.at("key_matcher", |cx| cx.reject("value is required")));
                };
                cx.at("key_matcher", |cx| StringMatcher::build(matcher, cx)).map(Self::RemoveMatching)
            }),
            Some(Action::Append(option)) => cx.at("append", |cx| Append::build(option, cx)).map(Self::Append),
        }
    }

    /// Computes the change; `entry` is what values refer to.
    pub(super) fn prepare(&self, headers: &HeaderMap, entry: &LogEntry<'_>) -> Change<'_> {
        match self {
            Self::Nothing => Change::Nothing,
            Self::Remove(name) => Change::Remove(name),
            Self::RemoveMatching(matcher) => Change::RemoveMatching(matcher),
            Self::Append(append) => append.prepare(headers, entry),
        }
    }
}

impl Append {
    #[allow(deprecated, reason = "control planes still send `append`")]
    fn build(proto: HeaderValueOption, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
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
        let action = HeaderAppendAction::try_from(append_action)
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
            true => cx.at("raw_value", |cx| Value::constant(&raw_value, cx)),
            false => cx.at("value", |cx| Value::build(&value, cx)),
        })?;
        Ok(Self { name, value, action, keep_empty: keep_empty_value })
    }

    fn prepare(&self, headers: &HeaderMap, entry: &LogEntry<'_>) -> Change<'_> {
        let exists = headers.contains_key(&self.name);
        let overwrite = match self.action {
            HeaderAppendAction::AppendIfExistsOrAdd => false,
            HeaderAppendAction::AddIfAbsent if exists => return Change::Nothing,
            HeaderAppendAction::AddIfAbsent => false,
            HeaderAppendAction::OverwriteIfExists if !exists => return Change::Nothing,
            HeaderAppendAction::OverwriteIfExists | HeaderAppendAction::OverwriteIfExistsOrAdd => true,
        };
        let Some(value) = self.value.render(entry) else { return Change::Nothing };
        if value.is_empty() && !self.keep_empty {
            return Change::Nothing;
        }
        if overwrite { Change::Overwrite(&self.name, value) } else { Change::Append(&self.name, value) }
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

impl Change<'_> {
    /// Carries the change out.
    pub(super) fn apply(self, headers: &mut HeaderMap) {
        match self {
            Self::Nothing => {}
            Self::Remove(name) => {
                headers.remove(name);
            }
            Self::RemoveMatching(matcher) => {
                let matching = headers.keys().filter(|name| matcher.matches(name.as_str().as_bytes()));
                for name in matching.cloned().collect::<Vec<_>>() {
                    headers.remove(name);
                }
            }
            Self::Append(name, value) => {
                headers.append(name, value);
            }
            Self::Overwrite(name, value) => {
                headers.insert(name, value);
            }
        }
    }
}
