//! What the HTTP and the network filter `ext_authz` have in common: what an authorization service is asked, and what its answer means.
//!
//! Source: Envoy `envoy/service/auth/v3/external_auth.proto`, `attribute_context.proto`,
//! `source/extensions/filters/common/ext_authz`.

pub mod check;
pub mod mutation;
pub mod verdict;

use std::time::Duration;

/// Details of what was refused because the service said so.
pub const DENIED: &str = "ext_authz_denied";
/// Details of what was refused because the service could not be asked.
pub const ERROR: &str = "ext_authz_error";
/// Details of what was refused because the answer could not be taken.
pub const INVALID: &str = "ext_authz_invalid";

/// How long an answer is waited for where nothing is said.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_millis(200);

/// The method that is called.
pub const CHECK: &str = "/envoy.service.auth.v3.Authorization/Check";
