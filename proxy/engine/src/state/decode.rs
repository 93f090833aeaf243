//! From bytes to a checked message, and from what is wrong to text.

use prost::{Message, Name};
use prost_types::Any;
use proxy_core::config::{BuildEnv, ConfigError, Findings};

use super::{Delivered, Response};

/// A resource that is a valid message of its type.
pub(super) struct Decoded<'r, M> {
    pub(super) delivered: &'r Delivered,
    pub(super) proto: M,
    /// What it asks for and cannot have; to be reported together with what building finds wrong.
    pub(super) refused: Vec<ConfigError>,
}

/// Reads all resources of a response, held to the constraints of their type.
///
/// # Errors
/// What is wrong with every resource that is not valid: `name: path: reason`, joined by `; `.
pub(super) fn decode_all<'r, M: Message + Name + Default>(
    response: &'r Response,
    env: &BuildEnv,
) -> Result<Vec<Decoded<'r, M>>, String> {
    let mut decoded = Vec::with_capacity(response.upserts.len());
    let mut invalid = Vec::new();
    for delivered in &response.upserts {
        match decode(&delivered.any, env) {
            Ok((proto, refused)) => decoded.push(Decoded { delivered, proto, refused }),
            Err(reason) => invalid.push(format!("{}: {reason}", delivered.name)),
        }
    }
    if invalid.is_empty() { Ok(decoded) } else { Err(invalid.join("; ")) }
}

fn decode<M: Message + Name + Default>(any: &Any, env: &BuildEnv) -> Result<(M, Vec<ConfigError>), String> {
    let Findings { invalid, refused } = env.checks.check(&any.type_url, &any.value);
    if !invalid.is_empty() {
        return Err(format!("Proto constraint validation failed: {}", join(&invalid)));
    }
    let proto = M::decode(any.value.as_slice()).map_err(|error| format!("cannot be decoded: {error}"))?;
    Ok((proto, refused))
}

/// Errors as one text.
pub(super) fn join(errors: &[ConfigError]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// A message as the resource it would be delivered as.
pub(super) fn to_any<M: Message>(type_url: &str, message: &M) -> Any {
    Any { type_url: type_url.to_owned(), value: message.encode_to_vec() }
}
