//! From bytes to a checked message, and from what is wrong to text.

use prost::{Message, Name};
use prost_types::Any;
use proxy_core::config::{BuildEnv, ConfigError, Findings};

use super::{Delivered, Response};

/// A resource of a response that is valid.
pub(super) struct Decoded<'r, M> {
    pub(super) delivered: &'r Delivered,
    /// `None` if it was held already, so that it need not be read.
    pub(super) fresh: Option<Fresh<M>>,
}

/// A resource that is a valid message of its type.
pub(super) struct Fresh<M> {
    pub(super) proto: M,
    /// What it asks for and cannot have; to be reported together with what building finds wrong.
    pub(super) refused: Vec<ConfigError>,
}

impl<M: Message + Name + Default> Decoded<'_, M> {
    /// The message, read now if it was held when the response came and is no longer.
    ///
    /// # Errors
    /// It is not valid.
    pub(super) fn read(self, env: &BuildEnv) -> Result<Fresh<M>, String> {
        match self.fresh {
            Some(fresh) => Ok(fresh),
            None => decode(&self.delivered.any, env),
        }
    }
}

/// Reads the resources of a response, held to the constraints of their type.
///
/// Those of which `is_held` says that the same bytes are in force or about to be are not read again: a state-of-the-world
/// response repeats everything for each change. They were valid when they were taken.
///
/// # Errors
/// What is wrong with every resource that is not valid: `name: path: reason`, joined by `; `.
pub(super) fn decode_all<'r, M: Message + Name + Default>(
    response: &'r Response,
    env: &BuildEnv,
    is_held: impl Fn(&Delivered) -> bool,
) -> Result<Vec<Decoded<'r, M>>, String> {
    let mut decoded = Vec::with_capacity(response.upserts.len());
    let mut invalid = Vec::new();
    for delivered in &response.upserts {
        if is_held(delivered) {
            decoded.push(Decoded { delivered, fresh: None });
            continue;
        }
        match decode(&delivered.any, env) {
            Ok(fresh) => decoded.push(Decoded { delivered, fresh: Some(fresh) }),
            Err(reason) => invalid.push(format!("{}: {reason}", delivered.name)),
        }
    }
    if invalid.is_empty() { Ok(decoded) } else { Err(invalid.join("; ")) }
}

fn decode<M: Message + Name + Default>(any: &Any, env: &BuildEnv) -> Result<Fresh<M>, String> {
    let Findings { invalid, refused } = env.checks.check(&any.type_url, &any.value);
    if !invalid.is_empty() {
        return Err(format!("Proto constraint validation failed: {}", join(&invalid)));
    }
    let proto = M::decode(any.value.as_slice()).map_err(|error| format!("cannot be decoded: {error}"))?;
    Ok(Fresh { proto, refused })
}

/// Errors as one text.
pub(super) fn join(errors: &[ConfigError]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// A message as the resource it would be delivered as.
pub(super) fn to_any<M: Message>(type_url: &str, message: &M) -> Any {
    Any { type_url: type_url.to_owned(), value: message.encode_to_vec() }
}
