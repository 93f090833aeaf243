//! Path and host rewrites of forwarded requests.
//!
//! The query is always kept. `x-envoy-original-path` and `x-envoy-original-host` tell what the client sent.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use proxy_core::config::{BuildCx, Rejected};
use proxy_core::extension::decode;
use proxy_core::format::{Empty, Format};
use proxy_core::head::RequestHead;
use proxy_core::headers::{X_ENVOY_ORIGINAL_HOST, X_ENVOY_ORIGINAL_PATH, X_FORWARDED_HOST};
use proxy_core::matcher::header::RequestHeader;
use proxy_core::matcher::{RegexRewrite, UriTemplate, UriTemplateRewrite};
use proxy_core::stream_info::StreamInfo;
use proxy_core::text::Text;
use xds_api::envoy::config::core::v3::TypedExtensionConfig;
use xds_api::envoy::config::route::v3::route_action::HostRewriteSpecifier;
use xds_api::envoy::extensions::path::rewrite::uri_template::v3::UriTemplateRewriteConfig;

use super::header_mutation::entry;
use super::path::PathRule;

const URI_TEMPLATE_REWRITE: &str = "envoy.extensions.path.rewrite.uri_template.v3.UriTemplateRewriteConfig";

/// Whether `x-envoy-*` headers are added (`Router.suppress_envoy_headers`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EnvoyHeaders {
    /// They are.
    Added,
    /// They are not.
    Suppressed,
}

/// How the path changes.
#[derive(Debug)]
pub enum PathRewrite {
    /// What the route's rule matched becomes this.
    Prefix(Box<str>),
    /// Every match of a regex in the path is replaced.
    Regex(RegexRewrite),
    /// The path becomes what this prints of the request, the query excepted; what is missing prints nothing.
    Format(Format),
    /// The path is composed anew from the variables of the route's URI template.
    Template {
        /// The template of the route.
        template: Arc<UriTemplate>,
        /// The new path.
        rewrite: UriTemplateRewrite,
    },
}

/// How the host changes.
#[derive(Debug)]
pub enum HostRewrite {
    /// To a fixed name.
    Literal(Text),
    /// To the name of the chosen upstream host.
    Upstream,
    /// To the value of a request header.
    Header(RequestHeader),
    /// To the path with a regex replaced.
    PathRegex(RegexRewrite),
    /// To what this prints of the request.
    Format(Format),
}

/// Whether the old host is appended to `x-forwarded-host`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForwardedHost {
    /// It is.
    Appended,
    /// It is not.
    Untouched,
}

impl PathRewrite {
    /// Builds `path_rewrite_policy`, which needs a route with a URI template.
    pub(super) fn build_policy(
        proto: &TypedExtensionConfig,
        rule: Option<&PathRule>,
        cx: &mut BuildCx<'_>,
    ) -> Result<Self, Rejected> {
        let TypedExtensionConfig { name: _, typed_config } = proto;
        cx.at("typed_config", |cx| {
            let Some(any) = typed_config else { return Err(cx.reject("value is required")) };
            let (message, payload) = cx.unpack(any)?;
            if message != URI_TEMPLATE_REWRITE {
                return Err(cx.reject(format!("path rewrite policy {message} is not available")));
            }
            let proto: UriTemplateRewriteConfig = decode(&payload, cx)?;
            let Some(template) = rule.and_then(PathRule::template) else {
                return Err(cx.reject("needs a route with a URI template as its path_match_policy"));
            };
            let rewrite = UriTemplateRewrite::build(&proto, template, cx)?;
            Ok(Self::Template { template: template.clone(), rewrite })
        })
    }

    /// Builds `path_rewrite`.
    pub(super) fn build_format(format: &str, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let format = Format::parse_with(format, Empty::Omit);
        format.map(Self::Format).map_err(|reason| cx.at("path_rewrite", |cx| cx.reject(reason)))
    }

    /// `request`'s path, query included, after the rewrite; `None` if it stays.
    pub(super) fn new_path(&self, rule: &PathRule, request: &RequestHead, info: &StreamInfo) -> Option<Text> {
        let path = request.path_only();
        let query = request.path.as_str().get(path.len()..).unwrap_or_default();
        let joined = |start: &[u8], middle: &str| {
            let mut new = Vec::with_capacity(start.len() + middle.len() + query.len());
            new.extend_from_slice(start);
            new.extend_from_slice(middle.as_bytes());
            new.extend_from_slice(query.as_bytes());
            Text::from_bytes(Bytes::from(new))
        };
        match self {
            Self::Prefix(prefix) => {
                let rest = path.get(rule.matched_len(path)..).unwrap_or_default();
                joined(prefix.as_bytes(), rest)
            }
            Self::Regex(regex) => {
                let new = regex.replace_all(path.as_bytes())?;
                joined(&new, "")
            }
            Self::Format(format) => {
                let mut new = Vec::new();
                format.render(&entry(Some(request), None, info), &mut new);
                // An empty one is none at all, whatever the query.
                if new.is_empty() { Some(Text::default()) } else { joined(&new, "") }
            }
            Self::Template { template, rewrite } => joined(rewrite.rewrite(template, path)?.as_bytes(), ""),
        }
    }
}

/// Rewrites the path of `request` if the route says so, and notes the old one in `x-envoy-original-path`.
pub(super) fn rewrite_path(
    rewrite: Option<&PathRewrite>,
    rule: &PathRule,
    request: &mut RequestHead,
    info: &StreamInfo,
    envoy_headers: EnvoyHeaders,
) {
    let Some(rewrite) = rewrite else { return };
    let new = rewrite.new_path(rule, request, info);
    if new.as_deref().is_some_and(|new| new.is_empty() || new.starts_with('?')) {
        // A path cannot vanish; Envoy leaves it as it was.
        return;
    }
    if envoy_headers == EnvoyHeaders::Added {
        set(&mut request.headers, &X_ENVOY_ORIGINAL_PATH, &request.path);
    }
    if let Some(new) = new {
        request.path = new;
    }
}

impl HostRewrite {
    /// Builds from the oneof; `None` if the host stays.
    pub(super) fn build(
        proto: Option<&HostRewriteSpecifier>,
        cx: &mut BuildCx<'_>,
    ) -> Result<Option<Self>, Rejected> {
        Ok(match proto {
            None | Some(HostRewriteSpecifier::AutoHostRewrite(false)) => None,
            Some(HostRewriteSpecifier::AutoHostRewrite(true)) => Some(Self::Upstream),
            Some(HostRewriteSpecifier::HostRewriteLiteral(host)) => {
                (!host.is_empty()).then(|| Self::Literal(host.as_str().into()))
            }
            Some(HostRewriteSpecifier::HostRewriteHeader(name)) if name.is_empty() => None,
            Some(HostRewriteSpecifier::HostRewriteHeader(name)) => {
                Some(Self::Header(cx.at("host_rewrite_header", |cx| RequestHeader::build(name, cx))?))
            }
            Some(HostRewriteSpecifier::HostRewritePathRegex(regex)) => {
                Some(Self::PathRegex(cx.at("host_rewrite_path_regex", |cx| RegexRewrite::build(regex, cx))?))
            }
            Some(HostRewriteSpecifier::HostRewrite(format)) if format.is_empty() => None,
            Some(HostRewriteSpecifier::HostRewrite(format)) => {
                let format = Format::parse(format);
                Some(Self::Format(format.map_err(|reason| cx.at("host_rewrite", |cx| cx.reject(reason)))?))
            }
        })
    }

    /// The new host, before an upstream host is chosen; `None` if it stays.
    pub(super) fn new_host(&self, request: &RequestHead, info: &StreamInfo) -> Option<Text> {
        let host = match self {
            Self::Literal(host) => return Some(host.clone()),
            Self::Upstream => return None,
            Self::Header(RequestHeader::Named(name)) => {
                Bytes::copy_from_slice(request.headers.get(name)?.as_bytes())
            }
            Self::Header(header) => Bytes::from(header.in_request(request)?.into_owned()),
            Self::PathRegex(regex) => {
                let path = request.path_only().as_bytes();
                regex.replace_all(path).map_or_else(|| Bytes::copy_from_slice(path), Bytes::from)
            }
            Self::Format(format) => {
                let mut host = Vec::new();
                format.render(&entry(Some(request), None, info), &mut host);
                Bytes::from(host)
            }
        };
        Text::from_bytes(host).filter(|host| !host.is_empty())
    }
}

/// Replaces the host of `request`, noting the old one as asked.
pub(super) fn update_authority(
    request: &mut RequestHead,
    host: Text,
    forwarded_host: ForwardedHost,
    envoy_headers: EnvoyHeaders,
) {
    if !request.authority.is_empty() {
        if envoy_headers == EnvoyHeaders::Added {
            set(&mut request.headers, &X_ENVOY_ORIGINAL_HOST, &request.authority);
        }
        if forwarded_host == ForwardedHost::Appended {
            append_forwarded_host(&mut request.headers, &request.authority);
        }
    }
    request.authority = host;
}

/// Appends `host` to `x-forwarded-host`, unless it is the last one there already.
fn append_forwarded_host(headers: &mut HeaderMap, host: &Text) {
    let Some(old) = proxy_core::matcher::header::joined(headers, &X_FORWARDED_HOST) else {
        set(headers, &X_FORWARDED_HOST, host);
        return;
    };
    let last = old.rsplit(|byte| *byte == b',').next().unwrap_or_default();
    if last == host.as_bytes() {
        return;
    }
    let mut new = old.into_owned();
    new.push(b',');
    new.extend_from_slice(host.as_bytes());
    if let Ok(value) = HeaderValue::from_maybe_shared(Bytes::from(new)) {
        headers.insert(&X_FORWARDED_HOST, value);
    }
}

fn set(headers: &mut HeaderMap, name: &'static HeaderName, value: &Text) {
    if let Ok(value) = HeaderValue::from_maybe_shared(value.as_bytes().clone()) {
        headers.insert(name, value);
    }
}
