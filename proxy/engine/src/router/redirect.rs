//! The action that answers with a redirect.
//!
//! The location is composed of scheme, host, port, path and query of the request, each replaced if the route says so.
//! Source: Envoy `api/envoy/config/route/v3/route_components.proto`, `RedirectAction`.

use http::{HeaderValue, StatusCode};
use proxy_core::config::{BuildCx, Rejected};
use proxy_core::head::RequestHead;
use proxy_core::headers::X_FORWARDED_PROTO;
use proxy_core::matcher::RegexRewrite;
use xds_api::envoy::config::route::v3 as proto;
use xds_api::envoy::config::route::v3::redirect_action::{
    PathRewriteSpecifier, RedirectResponseCode, SchemeRewriteSpecifier,
};

use super::rewrite::PathRewrite;

/// Answers with a redirect.
#[derive(Debug)]
pub struct Redirect {
    /// 301, 302, 303, 307 or 308.
    pub status: StatusCode,
    scheme: Option<Box<str>>,
    host: Option<Box<str>>,
    /// Any number, as in Envoy.
    port: Option<u32>,
    path: Option<PathRedirect>,
    query: Query,
    default_port: DefaultPort,
}

#[derive(Debug)]
enum PathRedirect {
    /// Replaces the path; its own query, if any, replaces the request's.
    Whole { path: Box<str>, has_query: bool },
    /// As for forwarded requests.
    Rewrite(PathRewrite),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Query {
    Kept,
    Stripped,
}

/// Whether a port that is the default of the request's scheme goes when the scheme changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum DefaultPort {
    Dropped,
    Kept,
}

impl Redirect {
    /// The redirect of virtual hosts that require TLS: the same URL with `https`.
    pub(super) fn to_https() -> Self {
        Self {
            status: StatusCode::MOVED_PERMANENTLY,
            scheme: Some("https".into()),
            host: None,
            port: None,
            path: None,
            query: Query::Kept,
            default_port: DefaultPort::Kept,
        }
    }

    pub(super) fn build(proto: &proto::RedirectAction, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let proto::RedirectAction {
            host_redirect,
            port_redirect,
            response_code,
            strip_query,
            scheme_rewrite_specifier,
            path_rewrite_specifier,
        } = proto;
        let status = cx.at("response_code", |cx| match RedirectResponseCode::try_from(*response_code) {
            Ok(RedirectResponseCode::MovedPermanently) => Ok(StatusCode::MOVED_PERMANENTLY),
            Ok(RedirectResponseCode::Found) => Ok(StatusCode::FOUND),
            Ok(RedirectResponseCode::SeeOther) => Ok(StatusCode::SEE_OTHER),
            Ok(RedirectResponseCode::TemporaryRedirect) => Ok(StatusCode::TEMPORARY_REDIRECT),
            Ok(RedirectResponseCode::PermanentRedirect) => Ok(StatusCode::PERMANENT_REDIRECT),
            Err(_) => Err(cx.reject("value must be one of the defined enum values")),
        });
        let scheme = match scheme_rewrite_specifier {
            None | Some(SchemeRewriteSpecifier::HttpsRedirect(false)) => None,
            Some(SchemeRewriteSpecifier::HttpsRedirect(true)) => Some("https".into()),
            Some(SchemeRewriteSpecifier::SchemeRedirect(scheme)) => not_empty(scheme),
        };
        let path = build_path(path_rewrite_specifier.as_ref(), cx);
        Ok(Self {
            status: status?,
            scheme,
            host: not_empty(host_redirect),
            port: Some(*port_redirect).filter(|port| *port != 0),
            path: path?,
            query: if *strip_query { Query::Stripped } else { Query::Kept },
            default_port: DefaultPort::Dropped,
        })
    }

    /// The value of `location` for `request`; `None` if it cannot stand in a header.
    pub(super) fn location(&self, request: &RequestHead) -> Option<HeaderValue> {
        let scheme = self.scheme.as_deref().unwrap_or(request.scheme.as_str());
        let host = match &self.host {
            Some(host) => host,
            None => self.request_host(request, scheme),
        };
        let mut location = String::with_capacity(scheme.len() + host.len() + request.path.len() + 16);
        location.push_str(scheme);
        location.push_str("://");
        location.push_str(host);
        if let Some(port) = self.port {
            location.push(':');
            location.push_str(itoa::Buffer::new().format(port));
        }
        self.push_path(request, &mut location);
        HeaderValue::try_from(location).ok()
    }

    /// The request's host, without its port if that is replaced or goes with the scheme.
    fn request_host<'r>(&self, request: &'r RequestHead, scheme: &str) -> &'r str {
        let host = request.authority.as_str();
        let colon = match host.starts_with('[') {
            true => host.rfind("]:").map(|bracket| bracket + 1),
            false => host.rfind(':'),
        };
        let Some((name, port)) = colon.and_then(|colon| host.split_at_checked(colon)) else { return host };
        if self.default_port == DefaultPort::Kept {
            return host;
        }
        let forwarded = request.headers.get(&X_FORWARDED_PROTO).map_or(b"".as_slice(), HeaderValue::as_bytes);
        let is_default = scheme.as_bytes() != forwarded
            && ((forwarded == b"https" && port == ":443") || (forwarded == b"http" && port == ":80"));
        if self.port.is_some() || is_default { name } else { host }
    }

    fn push_path(&self, request: &RequestHead, location: &mut String) {
        let path = request.path.as_str();
        let (path, query) = path.split_at_checked(path.find('?').unwrap_or(path.len())).unwrap_or((path, ""));
        let keeps_query = match &self.path {
            Some(PathRedirect::Whole { path, has_query }) => {
                location.push_str(path);
                !has_query && self.query == Query::Kept
            }
            Some(PathRedirect::Rewrite(_)) | None => {
                location.push_str(path);
                self.query == Query::Kept
            }
        };
        if keeps_query {
            location.push_str(query);
        }
    }

    /// The rewrite that the request's path goes through before the location is composed.
    pub(super) fn path_rewrite(&self) -> Option<&PathRewrite> {
        match &self.path {
            Some(PathRedirect::Rewrite(rewrite)) => Some(rewrite),
            Some(PathRedirect::Whole { .. }) | None => None,
        }
    }

    /// Whether that rewrite is a format: then the request itself keeps its path.
    pub(super) fn has_formatted_path(&self) -> bool {
        matches!(self.path_rewrite(), Some(PathRewrite::Format(_)))
    }
}

fn build_path(
    proto: Option<&PathRewriteSpecifier>,
    cx: &mut BuildCx<'_>,
) -> Result<Option<PathRedirect>, Rejected> {
    Ok(match proto {
        None => None,
        Some(PathRewriteSpecifier::PathRedirect(path)) => (!path.is_empty())
            .then(|| PathRedirect::Whole { path: path.as_str().into(), has_query: path.contains('?') }),
        Some(PathRewriteSpecifier::PrefixRewrite(prefix)) => {
            (!prefix.is_empty()).then(|| PathRedirect::Rewrite(PathRewrite::Prefix(prefix.as_str().into())))
        }
        Some(PathRewriteSpecifier::RegexRewrite(regex)) => {
            let regex = cx.at("regex_rewrite", |cx| RegexRewrite::build(regex, cx))?;
            Some(PathRedirect::Rewrite(PathRewrite::Regex(regex)))
        }
        Some(PathRewriteSpecifier::PathRewrite(format)) if format.is_empty() => None,
        Some(PathRewriteSpecifier::PathRewrite(format)) => {
            Some(PathRedirect::Rewrite(PathRewrite::build_format(format, cx)?))
        }
    })
}

fn not_empty(text: &str) -> Option<Box<str>> {
    (!text.is_empty()).then(|| text.into())
}

#[cfg(test)]
mod tests;
