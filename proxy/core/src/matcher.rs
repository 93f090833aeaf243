//! Matchers that routes, access log filters, RBAC and other extensions share (`envoy.type.matcher.v3`,
//! `envoy.config.route.v3.HeaderMatcher` and friends).
//!
//! Each is built once from its message and then matches without allocation, except where a repeated header has to be
//! joined. All that needs a lower-cased or compiled form has it after `build`.

pub mod cidr;
pub mod cookie;
pub mod fields;
pub mod header;
pub mod metadata;
pub mod path;
pub mod query;
pub mod regex;
pub mod response;
pub mod string;
pub mod uri_template;

pub use cidr::{Cidr, CidrSet};
pub use cookie::CookieMatcher;
pub use header::{HeaderMatcher, RequestHeader};
pub use metadata::{FilterStateMatcher, MetadataMatcher, ValueMatcher};
pub use path::PathMatcher;
pub use query::QueryParameterMatcher;
pub use regex::{Regex, RegexRewrite, Search};
pub use response::ResponsePredicate;
pub use string::StringMatcher;
pub use uri_template::{UriTemplate, UriTemplateRewrite};

#[cfg(test)]
mod tests;
