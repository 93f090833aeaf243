//! `envoy.type.matcher.v3.PathMatcher`: a string matcher over the path without query and fragment.

use xds_api::envoy::r#type::matcher::v3 as proto;
use xds_api::envoy::r#type::matcher::v3::path_matcher::Rule;

use super::string::StringMatcher;
use crate::config::{BuildCx, Rejected};

/// Matches a path.
#[derive(Clone, Debug)]
pub struct PathMatcher(StringMatcher);

impl PathMatcher {
    /// Builds from the message.
    pub fn build(proto: &proto::PathMatcher, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        match &proto.rule {
            Some(Rule::Path(path)) => Ok(Self(cx.at("path", |cx| StringMatcher::build(path, cx))?)),
            None => Err(cx.reject("path must be set")),
        }
    }

    /// Whether `path` (query and fragment are cut off) matches.
    pub fn matches(&self, path: &str) -> bool {
        let end = path.find(['?', '#']).unwrap_or(path.len());
        self.0.matches(&path.as_bytes()[..end])
    }
}
