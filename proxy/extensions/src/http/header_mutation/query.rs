//! Mutations of the parameters in a path's query.

use prost_types::value::Kind;
use proxy_core::config::{BuildCx, Rejected};
use proxy_core::extension::access_log::LogEntry;
use proxy_core::format::{Empty, Format};
use xds_api::envoy::config::core::v3::key_value_append::KeyValueAppendAction;
use xds_api::envoy::config::core::v3::{KeyValueAppend, KeyValueMutation, KeyValuePair};

/// A change of one parameter.
#[derive(Debug)]
pub(super) enum QueryMutation {
    Remove(String),
    Append { key: String, value: Format, action: KeyValueAppendAction },
}

impl QueryMutation {
    pub(super) fn build(proto: KeyValueMutation, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let KeyValueMutation { append, remove } = proto;
        match (append, remove.is_empty()) {
            (None, true) => Err(cx.reject("one of 'append'/'remove' must be specified")),
            (None, false) => Ok(Self::Remove(remove)),
            (Some(_), false) => Err(cx.reject("only one of 'append'/'remove' can be specified")),
            (Some(append), true) => cx.at("append", |cx| Self::build_append(append, cx)),
        }
    }

    #[allow(deprecated, reason = "the old field is read to be refused")]
    fn build_append(proto: KeyValueAppend, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let KeyValueAppend { record, entry: _, action } = proto;
        let Some(KeyValuePair { key, value }) = record else {
            return Err(cx.at("record", |cx| cx.reject("no record specified for append mutation")));
        };
        cx.at("record", |cx| {
            if key.is_empty() {
                return Err(cx.at("key", |cx| cx.reject("value length must be at least 1 bytes")));
            }
            let Some(Kind::StringValue(text)) = value.and_then(|value| value.kind) else {
                return Err(cx.at("value", |cx| cx.reject("only string value is allowed for record value")));
            };
            let value = cx.at("value", |cx| {
                Format::parse_with(&text, Empty::Omit).map_err(|reason| cx.reject(reason))
            })?;
            let action = KeyValueAppendAction::try_from(action)
                .map_err(|_| cx.reject("action: not a defined value"))?;
            Ok(Self::Append { key, value, action })
        })
    }
}

/// `path` with its parameters changed and sorted by name; values of one name keep their order.
pub(super) fn apply(mutations: &[QueryMutation], path: &str, entry: &LogEntry<'_>) -> String {
    let (before, query) = path.split_once('?').unwrap_or((path, ""));
    let mut params: Vec<(String, String)> = query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decoded(key), decoded(value))
        })
        .collect();
    for mutation in mutations {
        match mutation {
            QueryMutation::Remove(name) => params.retain(|(key, _)| key != name),
            QueryMutation::Append { key, value, action } => {
                let exists = params.iter().any(|(name, _)| name == key);
                let mut rendered = Vec::new();
                value.render(entry, &mut rendered);
                let pair = (key.clone(), String::from_utf8_lossy(&rendered).into_owned());
                match action {
                    KeyValueAppendAction::AppendIfExistsOrAdd => params.push(pair),
                    KeyValueAppendAction::AddIfAbsent if exists => {}
                    KeyValueAppendAction::AddIfAbsent => params.push(pair),
                    KeyValueAppendAction::OverwriteIfExists if !exists => {}
                    KeyValueAppendAction::OverwriteIfExists
                    | KeyValueAppendAction::OverwriteIfExistsOrAdd => {
                        params.retain(|(name, _)| name != key);
                        params.push(pair);
                    }
                }
            }
        }
    }
    params.sort_by(|(a, _), (b, _)| a.cmp(b));
    let mut path = before.to_owned();
    for (index, (key, value)) in params.iter().enumerate() {
        path.push(if index == 0 { '?' } else { '&' });
        encode(key, &mut path);
        path.push('=');
        encode(value, &mut path);
    }
    path
}

fn decoded(text: &str) -> String {
    percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned()
}

/// Escapes all but letters, digits and `-._~`.
fn encode(text: &str, out: &mut String) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(percent_encoding::percent_encode_byte(byte));
        }
    }
}
