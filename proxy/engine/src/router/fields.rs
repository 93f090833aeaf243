//! What becomes of every field of the route configuration's messages.

use proxy_core::config::FieldUse;

/// Fields by message.
pub const FIELDS: &[(&str, &[(&str, FieldUse)])] = &[];
