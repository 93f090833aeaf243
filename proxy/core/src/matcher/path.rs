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

    /// The one path that matches, if that is all.
    pub fn as_exact(&self) -> Option<&str> {
        self.0.as_exact()
    }

    /// What every path that matches begins with, if that is all.
    pub fn as_prefix(&self) -> Option<&str> {
        self.0.as_prefix()
    }

    /// Whether `path` (query and fragment are cut off) matches.
    pub fn matches(&self, path: &str) -> bool {
        let end = path.find(['?', '#']).unwrap_or(path.len());
        self.matches_path_only(&path[..end])
    }

    /// Whether `path`, which has neither query nor fragment, matches.
    pub fn matches_path_only(&self, path: &str) -> bool {
        self.0.matches(path.as_bytes())
    }
}

/// `path` with everything from a `;` to the end of its segment cut out.
pub fn without_parameters(path: &str) -> String {
    let mut kept = String::with_capacity(path.len());
    for (number, segment) in path.split('/').enumerate() {
        if number > 0 {
            kept.push('/');
        }
        kept.push_str(segment.split(';').next().unwrap_or(segment));
    }
    kept
}
