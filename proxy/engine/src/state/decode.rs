//! From bytes to a checked message, and from what is wrong to text.

use prost::{Message, Name};
use prost_types::Any;
use proxy_core::config::{BuildCx, ConfigError};
use xds_api::check::check;

/// The message in `any`, held to the constraints of its type.
///
/// # Errors
/// `path: reason` of all that is wrong, joined by `; `.
pub(super) fn decode<M: Message + Name + Default>(any: &Any) -> Result<M, String> {
    let report = check(&any.type_url, &any.value);
    if !report.errors.is_empty() {
        let errors: Vec<String> = report.errors.iter().map(ToString::to_string).collect();
        return Err(format!("Proto constraint validation failed: {}", errors.join("; ")));
    }
    M::decode(any.value.as_slice()).map_err(|error| format!("cannot be decoded: {error}"))
}

/// What building found wrong, as one text.
pub(super) fn reasons(cx: BuildCx<'_>) -> String {
    join(&cx.into_errors())
}

pub(super) fn join(errors: &[ConfigError]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// A message as the resource it would be delivered as.
pub(super) fn to_any<M: Message>(type_url: &str, message: &M) -> Any {
    Any { type_url: type_url.to_owned(), value: message.encode_to_vec() }
}
