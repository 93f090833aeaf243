//! What an `HttpUri` of the configuration says: whom to ask for what, and for how long.
//!
//! Source: Envoy `envoy/config/core/v3/http_uri.proto`.

use std::time::Duration;

use http::{HeaderMap, Method};
use proxy_core::config::{BuildCx, Rejected, duration};
use proxy_core::head::{RequestHead, Scheme};
use proxy_core::names::Name;
use proxy_core::text::Text;
use xds_api::envoy::config::core::v3 as proto;
use xds_api::envoy::config::core::v3::http_uri::HttpUpstreamType;

/// Whom to ask for what.
#[derive(Clone)]
pub struct HttpUri {
    /// Where it is.
    pub cluster: Name,
    scheme: Scheme,
    authority: Text,
    path: Text,
    /// How long an answer may take, if that is limited.
    pub timeout: Option<Duration>,
}

impl HttpUri {
    /// Reads the field `http_uri` of a message.
    ///
    /// # Errors
    /// It is missing, or names no cluster.
    pub fn build(proto: Option<&proto::HttpUri>, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        cx.at("http_uri", |cx| {
            let Some(proto::HttpUri { uri, timeout, http_upstream_type }) = proto else {
                return Err(cx.reject("value is required"));
            };
            let Some(HttpUpstreamType::Cluster(cluster)) = http_upstream_type else {
                return Err(cx.at("cluster", |cx| cx.reject("value is required")));
            };
            let (authority, path) = host_and_path(uri);
            Ok(Self {
                scheme: if uri.starts_with("https://") { Scheme::Https } else { Scheme::Http },
                timeout: timeout.as_ref().and_then(duration).filter(|timeout| !timeout.is_zero()),
                ..Self::of(cx.env.clusters.intern(cluster), authority, path)
            })
        })
    }

    /// Of which no more is said than this: without TLS, for as long as it takes.
    pub fn of(cluster: Name, authority: &str, path: &str) -> Self {
        let (authority, path) = (authority.into(), path.into());
        Self { cluster, scheme: Scheme::Http, authority, path, timeout: None }
    }

    /// A request for it.
    pub fn request(&self, method: Method, headers: HeaderMap) -> RequestHead {
        RequestHead {
            method,
            scheme: self.scheme,
            authority: self.authority.clone(),
            path: self.path.clone(),
            upgrade: None,
            case: None,
            headers,
        }
    }
}

/// The authority and the path of a URI, which may lack its scheme, and its path.
fn host_and_path(uri: &str) -> (&str, &str) {
    let rest = uri.split_once("://").map_or(uri, |(_, rest)| rest);
    match rest.find('/') {
        Some(at) => rest.split_at(at),
        None => (rest, "/"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::env;

    #[test]
    fn a_uri_says_whom_and_what() {
        let env = env();
        let mut cx = BuildCx::new(&env);
        for (uri, scheme, host, path) in [
            ("https://keys.example/a/b?c", Scheme::Https, "keys.example", "/a/b?c"),
            ("http://keys.example:80", Scheme::Http, "keys.example:80", "/"),
            ("keys.example/x", Scheme::Http, "keys.example", "/x"),
        ] {
            let http_upstream_type = Some(HttpUpstreamType::Cluster("c".into()));
            let proto = proto::HttpUri { uri: uri.into(), timeout: None, http_upstream_type };
            let Ok(built) = HttpUri::build(Some(&proto), &mut cx) else { panic!("{uri} is refused") };
            let request = built.request(Method::GET, HeaderMap::new());
            assert_eq!(
                (request.scheme, request.authority.as_str(), request.path.as_str()),
                (scheme, host, path)
            );
        }
    }

    #[test]
    fn a_uri_has_a_cluster() {
        let env = env();
        let mut cx = BuildCx::new(&env);
        assert!(HttpUri::build(None, &mut cx).is_err());
        assert!(HttpUri::build(Some(&proto::HttpUri::default()), &mut cx).is_err());
        let paths: Vec<_> = cx.into_errors().into_iter().map(|error| error.path).collect();
        assert_eq!(paths, ["http_uri", "http_uri.cluster"]);
    }
}
