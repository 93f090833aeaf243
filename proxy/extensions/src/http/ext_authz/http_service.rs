//! A service that is asked over HTTP: the request's head, and what else of it is allowed, and its answer as a response.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use prost_types::Value;
use prost_types::value::Kind;
use proxy_core::callout::{Answer, Call, Called};
use proxy_core::config::{BuildCx, Rejected, duration};
use proxy_core::extension::access_log::LogEntry;
use proxy_core::extension::http_filter::StreamCx;
use proxy_core::format::{Empty, Format};
use proxy_core::head::RequestHead;
use proxy_core::headers::{X_ENVOY_AUTH_HEADERS_TO_REMOVE, X_ENVOY_AUTH_PARTIAL_BODY};
use proxy_core::matcher::StringMatcher;
use proxy_core::names::Name;
use proxy_core::retry::RetryPolicy;
use proxy_core::text::Text;
use xds_api::envoy::config::core::v3 as core;
use xds_api::envoy::config::core::v3::http_uri::HttpUpstreamType;
use xds_api::envoy::extensions::filters::http::ext_authz::v3 as proto;

use super::config::{Config, build_list};
use super::service::Told;
use crate::shared::ext_authz::check::{fields, sanitized};
use crate::shared::ext_authz::mutation::{Action, Mutation};
use crate::shared::ext_authz::verdict::{Decision, Verdict};

/// The service.
pub(super) struct HttpService {
    cluster: Name,
    timeout: Option<Duration>,
    path: Path,
    added: Vec<(HeaderName, Format)>,
    response: Allowed,
    retry: Option<Arc<RetryPolicy>>,
}

/// Which path is asked for.
enum Path {
    /// The request's own behind this.
    Prefixed(String),
    /// This one.
    Fixed(String),
}

/// What of the answer's headers goes where.
#[derive(Default)]
struct Allowed {
    /// In place of those of the request that passes.
    upstream: Vec<StringMatcher>,
    /// Beside them.
    upstream_append: Vec<StringMatcher>,
    /// Into the reply; all but the host where nothing is said.
    client: Option<Vec<StringMatcher>>,
    /// Into the response to the request that passes.
    client_on_success: Vec<StringMatcher>,
    /// Into metadata.
    metadata: Vec<StringMatcher>,
}

impl HttpService {
    pub(super) fn build(
        proto: &proto::HttpService,
        default_timeout: Duration,
        cx: &mut BuildCx<'_>,
    ) -> Result<Self, Rejected> {
        let proto::HttpService {
            server_uri,
            path_prefix,
            path_override,
            authorization_request,
            authorization_response,
            retry_policy,
        } = proto;
        let retry = retry_policy
            .as_ref()
            .map(|policy| cx.at("retry_policy", |cx| RetryPolicy::of_calls(policy, None, cx)))
            .transpose();
        let Some(uri) = server_uri else {
            return Err(cx.at("server_uri", |cx| cx.reject("value is required")));
        };
        let (cluster, timeout) = cx.at("server_uri", |cx| build_uri(uri, default_timeout, cx))?;
        let added = authorization_request.as_ref().map(|request| {
            cx.at("authorization_request", |cx| {
                cx.each("headers_to_add", &request.headers_to_add, build_added)
            })
        });
        let response = authorization_response.as_ref();
        let response = response.map(|proto| cx.at("authorization_response", |cx| Allowed::build(proto, cx)));
        Ok(Self {
            cluster,
            timeout,
            retry: retry?.map(Arc::new),
            path: build_path(path_prefix, path_override, cx)?,
            added: added.transpose()?.unwrap_or_default(),
            response: response.transpose()?.unwrap_or_default(),
        })
    }

    pub(super) fn call(&self, config: &Config, cx: &StreamCx<'_>, told: Option<&Told>) -> Call {
        let own = &*cx.request;
        let path = match &self.path {
            Path::Prefixed(prefix) if prefix.is_empty() => own.path.clone(),
            Path::Prefixed(prefix) => Text::from(format!("{prefix}{}", own.path)),
            Path::Fixed(path) => Text::from(path.as_str()),
        };
        let body = told.map(|told| told.body.clone()).unwrap_or_default();
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
        for (name, value) in fields(own) {
            if config.tells(name) {
                add(&mut headers, name, value);
            }
        }
        if let Some(told) = told {
            let is_partial = if told.is_partial { "true" } else { "false" };
            headers.insert(&*X_ENVOY_AUTH_PARTIAL_BODY, HeaderValue::from_static(is_partial));
        }
        let entry = LogEntry { request: Some(own), ..LogEntry::of(cx.info) };
        for (name, format) in &self.added {
            let mut value = Vec::new();
            format.render(&entry, &mut value);
            if let Ok(value) = HeaderValue::from_maybe_shared(Bytes::from(value)) {
                headers.insert(name, value);
            }
        }
        let request = RequestHead {
            method: own.method.clone(),
            scheme: own.scheme,
            authority: own.authority.clone(),
            path,
            upgrade: None,
            case: None,
            headers,
        };
        let call = Call::new(self.cluster.clone(), request, body);
        Call { timeout: self.timeout, retry: self.retry.clone(), ..call }
    }

    pub(super) fn verdict(&self, called: &Called) -> Verdict {
        let Ok(answer) = called else { return Verdict::new(Decision::Error) };
        let status = answer.head.status;
        if status.is_server_error() {
            return Verdict::new(Decision::Error);
        }
        let mut verdict =
            Verdict::new(if status == StatusCode::OK { Decision::Ok } else { Decision::Denied });
        let headers = &answer.head.headers;
        for (name, value) in headers.iter().filter(|(name, _)| *name != *X_ENVOY_AUTH_HEADERS_TO_REMOVE) {
            self.sort(name, value, &mut verdict);
        }
        match verdict.decision {
            Decision::Ok => {
                let lists = headers.get_all(&*X_ENVOY_AUTH_HEADERS_TO_REMOVE).iter();
                verdict.remove = lists.flat_map(names_in).collect();
            }
            Decision::Denied | Decision::Error => self.deny(answer, &mut verdict),
        }
        verdict
    }

    /// Puts a header of the answer where it goes.
    fn sort(&self, name: &HeaderName, value: &HeaderValue, verdict: &mut Verdict) {
        let allowed = &self.response;
        let is_in = |list: &[StringMatcher]| list.iter().any(|one| one.matches(name.as_str().as_bytes()));
        let mutation =
            |action| Mutation { name: name.as_str().to_owned(), value: value.as_bytes().to_vec(), action };
        if is_in(&allowed.metadata) {
            let text = Value { kind: Some(Kind::StringValue(sanitized(value.as_bytes()))) };
            verdict.metadata.fields.insert(name.as_str().to_owned(), text);
        }
        if verdict.decision != Decision::Ok {
            let is_for_client = match &allowed.client {
                Some(list) => is_in(list) || is_always_for_client(name),
                None => *name != header::HOST,
            };
            if is_for_client && *name != header::CONTENT_LENGTH {
                verdict.reply.push(mutation(Action::Add));
            }
            return;
        }
        if is_in(&allowed.upstream) {
            verdict.request.push(mutation(Action::Overwrite));
        }
        if is_in(&allowed.upstream_append) {
            verdict.request.push(mutation(Action::Add));
        }
        if is_in(&allowed.client_on_success) {
            verdict.response.push(mutation(Action::Add));
        }
    }

    fn deny(&self, answer: &Answer, verdict: &mut Verdict) {
        verdict.status = Some(answer.head.status);
        verdict.body = answer.body.clone();
    }
}

/// What the client gets of a refusal in any case.
fn is_always_for_client(name: &HeaderName) -> bool {
    *name == header::CONTENT_LENGTH || *name == header::WWW_AUTHENTICATE || *name == header::LOCATION
}

/// The names in a list of headers.
fn names_in(list: &HeaderValue) -> Vec<String> {
    let text = String::from_utf8_lossy(list.as_bytes());
    text.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

/// Adds a header that the service is told; those of one name are joined.
fn add(headers: &mut HeaderMap, name: &str, value: &[u8]) {
    // (The head has fields for pseudo-headers, and those of a connection are not for another.)
    let Ok(name) = HeaderName::from_bytes(name.as_bytes()) else { return };
    if name == header::CONTENT_LENGTH || name == header::CONNECTION || name == header::UPGRADE {
        return;
    }
    let value = sanitized(value);
    let all = match headers.get(&name) {
        Some(before) => [before.as_bytes(), b",", value.as_bytes()].concat(),
        None => value.into_bytes(),
    };
    if let Ok(value) = HeaderValue::from_maybe_shared(Bytes::from(all)) {
        headers.insert(name, value);
    }
}

fn build_uri(
    proto: &core::HttpUri,
    default_timeout: Duration,
    cx: &mut BuildCx<'_>,
) -> Result<(Name, Option<Duration>), Rejected> {
    // (The address is for people: the cluster has the real one.)
    let core::HttpUri { uri: _, timeout, http_upstream_type } = proto;
    let Some(HttpUpstreamType::Cluster(cluster)) = http_upstream_type else {
        return Err(cx.at("cluster", |cx| cx.reject("value is required")));
    };
    let timeout = timeout.as_ref().and_then(duration).unwrap_or(default_timeout);
    Ok((cx.env.clusters.intern(cluster), Some(timeout).filter(|timeout| !timeout.is_zero())))
}

fn build_path(prefix: &str, fixed: &str, cx: &mut BuildCx<'_>) -> Result<Path, Rejected> {
    match (prefix, fixed) {
        (prefix, "") if prefix.is_empty() || prefix.starts_with('/') => Ok(Path::Prefixed(prefix.to_owned())),
        (_, "") => Err(cx.at("path_prefix", |cx| cx.reject("path_prefix should start with \"/\"."))),
        ("", fixed) if fixed.starts_with('/') => Ok(Path::Fixed(fixed.to_owned())),
        ("", _) => Err(cx.at("path_override", |cx| cx.reject("path_override should start with \"/\"."))),
        _ => Err(cx.at("path_override", |cx| {
            cx.reject("Only one of path_prefix or path_override may be specified")
        })),
    }
}

fn build_added(proto: &core::HeaderValue, cx: &mut BuildCx<'_>) -> Result<(HeaderName, Format), Rejected> {
    let core::HeaderValue { key, value, raw_value } = proto;
    cx.reject_if(!raw_value.is_empty(), "raw_value", "use value")?;
    let name = HeaderName::from_bytes(key.as_bytes())
        .map_err(|_| cx.at("key", |cx| cx.reject(format!("'{key}' is not a header name"))))?;
    let format = Format::parse_with(value, Empty::Omit);
    Ok((name, format.map_err(|reason| cx.at("value", |cx| cx.reject(reason)))?))
}

impl Allowed {
    fn build(proto: &proto::AuthorizationResponse, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let proto::AuthorizationResponse {
            allowed_upstream_headers,
            allowed_upstream_headers_to_append,
            allowed_client_headers,
            allowed_client_headers_on_success,
            dynamic_metadata_from_headers,
        } = proto;
        let mut list = |field, proto: &Option<_>| build_list(field, proto.as_ref(), cx);
        let upstream = list("allowed_upstream_headers", allowed_upstream_headers);
        let append = list("allowed_upstream_headers_to_append", allowed_upstream_headers_to_append);
        let client = list("allowed_client_headers", allowed_client_headers);
        let on_success = list("allowed_client_headers_on_success", allowed_client_headers_on_success);
        let metadata = list("dynamic_metadata_from_headers", dynamic_metadata_from_headers);
        Ok(Self {
            upstream: upstream?.unwrap_or_default(),
            upstream_append: append?.unwrap_or_default(),
            client: client?.filter(|list| !list.is_empty()),
            client_on_success: on_success?.unwrap_or_default(),
            metadata: metadata?.unwrap_or_default(),
        })
    }
}
