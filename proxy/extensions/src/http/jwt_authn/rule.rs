//! Which requests a requirement is for: the part of `RouteMatch` that Envoy looks at here.

use proxy_core::config::{BuildCx, Rejected};
use proxy_core::head::RequestHead;
use proxy_core::matcher::header::HeaderMatcher;
use proxy_core::matcher::query::QueryParameterMatcher;
use proxy_core::matcher::regex::Regex;
use xds_api::envoy::config::route::v3 as proto;
use xds_api::envoy::config::route::v3::route_match::PathSpecifier;

/// What a request must be like.
pub(super) struct RequestMatch {
    path: Path,
    is_case_sensitive: bool,
    headers: Box<[HeaderMatcher]>,
    params: Vec<QueryParameterMatcher>,
}

enum Path {
    Prefix(String),
    /// A prefix that ends where a segment ends.
    SeparatedPrefix(String),
    Exact(String),
    Regex(Regex),
    Connect,
}

impl RequestMatch {
    /// Builds it; what only routes can match by is refused.
    pub(super) fn build(proto: &proto::RouteMatch, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let proto::RouteMatch {
            case_sensitive,
            runtime_fraction,
            headers,
            query_parameters,
            cookies,
            grpc,
            tls_context,
            dynamic_metadata,
            filter_state,
            path_specifier,
        } = proto;
        let elsewhere = "is for routes: here requests are matched by path, headers and query parameters";
        let refused = [
            cx.reject_if(runtime_fraction.is_some(), "runtime_fraction", elsewhere),
            cx.reject_if(!cookies.is_empty(), "cookies", elsewhere),
            cx.reject_if(grpc.is_some(), "grpc", elsewhere),
            cx.reject_if(tls_context.is_some(), "tls_context", elsewhere),
            cx.reject_if(!dynamic_metadata.is_empty(), "dynamic_metadata", elsewhere),
            cx.reject_if(!filter_state.is_empty(), "filter_state", elsewhere),
        ];
        let path = match path_specifier {
            None => Err(cx.reject("path_specifier: value is required")),
            Some(PathSpecifier::Prefix(prefix)) => Ok(Path::Prefix(prefix.clone())),
            Some(PathSpecifier::PathSeparatedPrefix(prefix)) => Ok(Path::SeparatedPrefix(prefix.clone())),
            Some(PathSpecifier::Path(path)) => Ok(Path::Exact(path.clone())),
            Some(PathSpecifier::SafeRegex(regex)) => {
                cx.at("safe_regex", |cx| Regex::build(regex, cx)).map(Path::Regex)
            }
            Some(PathSpecifier::ConnectMatcher(_)) => Ok(Path::Connect),
            Some(PathSpecifier::PathMatchPolicy(_)) => cx.at("path_match_policy", |cx| {
                Err(cx.reject("is not available here: use prefix, path, path_separated_prefix or safe_regex"))
            }),
        };
        let headers = HeaderMatcher::build_all("headers", headers, cx);
        let params = cx.each("query_parameters", query_parameters, QueryParameterMatcher::build);
        refused.into_iter().collect::<Result<(), _>>()?;
        Ok(Self {
            path: path?,
            is_case_sensitive: case_sensitive.unwrap_or(true),
            headers: headers?,
            params: params?,
        })
    }

    /// Whether the request is like that.
    pub(super) fn matches(&self, request: &RequestHead) -> bool {
        self.headers.iter().all(|header| header.matches_request(request))
            && self.params.iter().all(|param| param.matches(request.query()))
            && self.matches_path(request)
    }

    fn matches_path(&self, request: &RequestHead) -> bool {
        let path = request.path_only();
        match &self.path {
            Path::Prefix(prefix) => self.starts(path, prefix),
            Path::SeparatedPrefix(prefix) => {
                self.starts(path, prefix) && matches!(path.as_bytes().get(prefix.len()), None | Some(b'/'))
            }
            Path::Exact(exact) if self.is_case_sensitive => path == exact,
            Path::Exact(exact) => path.eq_ignore_ascii_case(exact),
            Path::Regex(regex) => regex.is_full_match(path.as_bytes()),
            Path::Connect => request.method == http::Method::CONNECT,
        }
    }

    fn starts(&self, path: &str, prefix: &str) -> bool {
        let Some(start) = path.as_bytes().get(..prefix.len()) else { return false };
        match self.is_case_sensitive {
            true => start == prefix.as_bytes(),
            false => start.eq_ignore_ascii_case(prefix.as_bytes()),
        }
    }
}
