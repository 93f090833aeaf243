//! The configuration of the filter, and of a route.

use std::collections::HashMap;

use http::StatusCode;
use proxy_core::config::{BuildCx, Rejected};
use proxy_core::extension::http_filter::StreamCx;
use proxy_core::matcher::{MetadataMatcher, StringMatcher};
use proxy_core::runtime::RuntimeFraction;
use proxy_core::stats::Cells;
use xds_api::envoy::extensions::filters::http::ext_authz::v3 as proto;
use xds_api::envoy::extensions::filters::http::ext_authz::v3::check_settings::ServiceOverride;
use xds_api::envoy::extensions::filters::http::ext_authz::v3::ext_authz::Services;
use xds_api::envoy::extensions::filters::http::ext_authz::v3::ext_authz_per_route::Override;
use xds_api::envoy::r#type::matcher::v3::ListStringMatcher;

use super::service::Service;
use crate::shared::by_name::ByName;
use crate::shared::ext_authz::check::{Encoding, Told, labels};
use crate::shared::ext_authz::mutation::Rules;
use crate::shared::ext_authz::verdict::Verdict;
use crate::shared::runtime_flag::RuntimeFlag;

/// `core::ApiVersion::V2`, which the API deprecates.
const V2: i32 = 1;

proxy_core::stats! {
    /// `http.<stat_prefix>.ext_authz`
    pub sharded struct ExtAuthzStats {
        /// Refused by the service.
        counter denied,
        /// Not asked about: the filter was off.
        counter disabled,
        /// The service could not be asked.
        counter error,
        /// Of them, let pass all the same.
        counter failure_mode_allowed,
        /// Another filter has put something else where this one leaves what it measured.
        counter filter_state_name_collision,
        /// Answers with metadata where none is taken.
        counter ignored_dynamic_metadata,
        /// Answers that could not be taken.
        counter invalid,
        /// Allowed by the service.
        counter ok,
        /// Responses that had no room for all headers.
        counter omitted_response_headers,
        /// Requests that have more headers than they may, once the service's are added.
        counter request_header_limits_reached,
        /// Responses of which that is true.
        counter response_header_limits_reached,
        /// Refused in shadow mode, and passed.
        counter shadow_denied,
        /// Not asked about in shadow mode, and passed.
        counter shadow_error,
    }

    /// `cluster.<name>.ext_authz`, of the cluster that the request goes to.
    pub sharded struct ClusterStats {
        /// Refused by the service.
        counter denied [on_demand],
        /// The service could not be asked.
        counter error [on_demand],
        /// Of them, let pass all the same.
        counter failure_mode_allowed [on_demand],
        /// Answers that could not be taken.
        counter invalid [on_demand],
        /// Allowed by the service.
        counter ok [on_demand],
    }
}

/// The configuration of the filter.
pub struct Config {
    pub(super) service: Service,
    pub(super) told: Told,
    pub(super) route_namespaces: Vec<String>,
    pub(super) allowed_headers: Option<Vec<StringMatcher>>,
    pub(super) disallowed_headers: Vec<StringMatcher>,
    pub(super) encoding: Encoding,
    pub(super) body: Option<Buffering>,
    pub(super) allows_failure: bool,
    /// What the service says is told, and nothing else comes of it but what it says of requests that may pass.
    pub(super) is_shadow: bool,
    pub(super) marks_failure: bool,
    clears_route: bool,
    /// Changes of these headers clear it, or of any if there are none.
    clearing_headers: Vec<String>,
    pub(super) status_on_error: StatusCode,
    pub(super) validates: bool,
    pub(super) rules: Option<Rules>,
    pub(super) takes_metadata: bool,
    pub(super) max_body: Option<usize>,
    /// Responses may have no more headers from the service than hosts may give them.
    pub(super) limits_responses: bool,
    /// What is left of the call in the filter state.
    pub(super) measures: Measures,
    pub(super) charges_cluster: bool,
    pub(super) stats: Cells<ExtAuthzStats>,
    pub(super) clusters: ByName<ClusterStats>,
    enabled: Option<RuntimeFraction>,
    enabled_metadata: Option<MetadataMatcher>,
    deny_at_disable: Option<RuntimeFlag>,
}

/// What of a call is left for access logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Measures {
    /// Nothing.
    None,
    /// A value that has none of it (`filter_metadata`).
    Empty,
    /// How long it took, and what the wire carried (`emit_filter_state_stats`).
    All,
}

/// How much of a body the service is told (`BufferSettings`).
#[derive(Clone, Copy, Debug)]
pub(super) struct Buffering {
    pub(super) max: usize,
    /// What is longer is told in part; else it is refused.
    pub(super) partial: bool,
    /// As bytes; else as text.
    pub(super) as_bytes: bool,
}

impl Buffering {
    fn build(proto: &proto::BufferSettings, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let proto::BufferSettings { max_request_bytes, allow_partial_message, pack_as_bytes } = proto;
        if *max_request_bytes == 0 {
            let reason = "value must be greater than 0";
            return Err(cx.at("max_request_bytes", |cx| cx.reject(reason)));
        }
        Ok(Self {
            max: *max_request_bytes as usize,
            partial: *allow_partial_message,
            as_bytes: *pack_as_bytes,
        })
    }
}

impl Config {
    pub(super) fn build(proto: &proto::ExtAuthz, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let is_grpc = matches!(proto.services, Some(Services::GrpcService(_)));
        if is_grpc && proto.transport_api_version == V2 {
            let reason = "the v2 API is no longer supported";
            return Err(cx.at("transport_api_version", |cx| cx.reject(reason)));
        }
        let service = match &proto.services {
            Some(Services::GrpcService(service)) => {
                cx.at("grpc_service", |cx| Service::build_grpc(service, cx))
            }
            Some(Services::HttpService(service)) => {
                cx.at("http_service", |cx| Service::build_http(service, cx))
            }
            None => Err(cx.at("grpc_service", |cx| cx.reject("a service is required"))),
        };
        let body = proto.with_request_body.as_ref();
        let body = body.map(|body| cx.at("with_request_body", |cx| Buffering::build(body, cx))).transpose();
        let rules = proto.decoder_header_mutation_rules.as_ref();
        let rules = rules
            .map(|rules| cx.at("decoder_header_mutation_rules", |cx| Rules::build(rules, cx)))
            .transpose();
        let metadata = proto.filter_enabled_metadata.as_ref();
        let metadata = metadata
            .map(|matcher| cx.at("filter_enabled_metadata", |cx| MetadataMatcher::build(matcher, cx)))
            .transpose();
        let allowed = build_allowed(proto, cx);
        let disallowed = build_list("disallowed_headers", proto.disallowed_headers.as_ref(), cx);
        let prefix = proto.stat_prefix.trim_end_matches('.');
        let scope = match prefix {
            "" => "ext_authz".to_owned(),
            prefix => format!("ext_authz.{prefix}"),
        };
        Ok(Self {
            service: service?,
            told: Told {
                certificate: proto.include_peer_certificate,
                session: proto.include_tls_session,
                labels: labels(&cx.env.node.metadata, &proto.bootstrap_metadata_labels_key),
                namespaces: proto.metadata_context_namespaces.clone(),
            },
            route_namespaces: proto.route_metadata_context_namespaces.clone(),
            allowed_headers: allowed?,
            disallowed_headers: disallowed?.unwrap_or_default(),
            encoding: if proto.encode_raw_headers { Encoding::Raw } else { Encoding::Text },
            body: body?,
            allows_failure: proto.failure_mode_allow,
            is_shadow: proto.shadow_mode,
            marks_failure: proto.failure_mode_allow_header_add,
            clears_route: proto.clear_route_cache,
            clearing_headers: proto.clear_route_cache_headers.clone(),
            status_on_error: status_or_forbidden(proto.status_on_error.map(|status| status.code)),
            validates: proto.validate_mutations,
            rules: rules?,
            takes_metadata: proto.enable_dynamic_metadata_ingestion.unwrap_or(true),
            max_body: Some(proto.max_denied_response_body_bytes as usize).filter(|max| *max > 0),
            limits_responses: proto.enforce_response_header_limits,
            measures: match (proto.emit_filter_state_stats, &proto.filter_metadata) {
                (true, _) => Measures::All,
                (false, Some(_)) => Measures::Empty,
                (false, None) => Measures::None,
            },
            charges_cluster: proto.charge_cluster_response_stats.unwrap_or(true),
            stats: cx.env.stats.scope(&format!("{}{scope}", cx.stat_prefix)).cells(),
            clusters: ByName::around(cx.env.stats.clone(), "cluster", scope),
            enabled: proto.filter_enabled.as_ref().map(RuntimeFraction::new),
            enabled_metadata: metadata?,
            deny_at_disable: proto.deny_at_disable.clone().map(|flag| RuntimeFlag::new(Some(flag), cx)),
        })
    }

    /// Whether requests like this one are asked about at all.
    pub(super) fn is_enabled(&self, cx: &StreamCx<'_>) -> bool {
        let holds = |share: &RuntimeFraction| share.holds(cx.engine.runtime(), cx.engine.random());
        self.enabled.as_ref().is_none_or(holds)
            && self.enabled_metadata.as_ref().is_none_or(|matcher| matcher.matches_dynamic(cx.info))
    }

    /// Whether the route is looked for anew after the changes that the service wants of a request that may pass.
    pub(super) fn clears_route(&self, verdict: &Verdict) -> bool {
        let mut changed = verdict.request.iter().map(|mutation| &mutation.name).chain(&verdict.remove);
        let is_meant = |name: &String| {
            let mut meant = self.clearing_headers.iter();
            self.clearing_headers.is_empty() || meant.any(|one| one.eq_ignore_ascii_case(name))
        };
        self.clears_route && (verdict.changes_path() || changed.any(is_meant))
    }

    /// Whether those that are not are refused.
    pub(super) fn denies_at_disable(&self) -> bool {
        self.deny_at_disable.as_ref().is_some_and(RuntimeFlag::get)
    }

    /// Whether the service is told a header.
    pub(super) fn tells(&self, name: &str) -> bool {
        let is_in = |list: &[StringMatcher]| list.iter().any(|one| one.matches(name.as_bytes()));
        !is_in(&self.disallowed_headers) && self.allowed_headers.as_deref().is_none_or(is_in)
    }
}

/// Which headers the service is told: of gRPC all where nothing is said, of HTTP no more than it needs.
#[allow(deprecated, reason = "the older place is still used")]
fn build_allowed(
    proto: &proto::ExtAuthz,
    cx: &mut BuildCx<'_>,
) -> Result<Option<Vec<StringMatcher>>, Rejected> {
    let own = build_list("allowed_headers", proto.allowed_headers.as_ref(), cx)?;
    let Some(Services::HttpService(service)) = &proto.services else { return Ok(own) };
    let of_service =
        service.authorization_request.as_ref().and_then(|request| request.allowed_headers.as_ref());
    if own.is_some() && of_service.is_some() {
        return Err(
            cx.at("allowed_headers", |cx| cx.reject("Invalid duplicate configuration for allowed_headers."))
        );
    }
    let of_service = cx.at("http_service", |cx| {
        cx.at("authorization_request", |cx| build_list("allowed_headers", of_service, cx))
    })?;
    let mut allowed = of_service.or(own).unwrap_or_default();
    let always = ["authorization", ":method", ":path", ":authority"];
    allowed.extend(always.map(StringMatcher::exact));
    Ok(Some(allowed))
}

/// The matchers of a list, if there is one.
pub(super) fn build_list(
    field: &'static str,
    list: Option<&ListStringMatcher>,
    cx: &mut BuildCx<'_>,
) -> Result<Option<Vec<StringMatcher>>, Rejected> {
    let Some(ListStringMatcher { patterns }) = list else { return Ok(None) };
    cx.at(field, |cx| cx.each("patterns", patterns, StringMatcher::build)).map(Some)
}

/// What Envoy makes of a configured status.
fn status_or_forbidden(code: Option<i32>) -> StatusCode {
    let code = code.and_then(|code| u16::try_from(code).ok()).filter(|code| (100..=511).contains(code));
    code.and_then(|code| StatusCode::from_u16(code).ok()).unwrap_or(StatusCode::FORBIDDEN)
}

/// What a route says.
pub struct RouteConfig {
    pub(super) disabled: bool,
    pub(super) extensions: HashMap<String, String>,
    pub(super) without_body: bool,
    pub(super) body: Option<Buffering>,
    pub(super) service: Option<Service>,
}

impl RouteConfig {
    pub(super) fn build(proto: &proto::ExtAuthzPerRoute, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let nothing = Self {
            disabled: false,
            extensions: HashMap::new(),
            without_body: false,
            body: None,
            service: None,
        };
        match &proto.r#override {
            Some(Override::Disabled(true)) => Ok(Self { disabled: true, ..nothing }),
            Some(Override::Disabled(false)) => {
                Err(cx.at("disabled", |cx| cx.reject("value must equal true")))
            }
            Some(Override::CheckSettings(settings)) => {
                cx.at("check_settings", |cx| Self::build_settings(settings, nothing, cx))
            }
            None => Err(cx.at("disabled", |cx| cx.reject("one of disabled, check_settings is required"))),
        }
    }

    fn build_settings(
        proto: &proto::CheckSettings,
        nothing: Self,
        cx: &mut BuildCx<'_>,
    ) -> Result<Self, Rejected> {
        let proto::CheckSettings {
            context_extensions,
            disable_request_body_buffering,
            with_request_body,
            emit_client_span: _,
            service_override,
        } = proto;
        if *disable_request_body_buffering && with_request_body.is_some() {
            return Err(cx.at("with_request_body", |cx| {
                cx.reject("cannot be set where disable_request_body_buffering is")
            }));
        }
        let body = with_request_body.as_ref();
        let body = body.map(|body| cx.at("with_request_body", |cx| Buffering::build(body, cx))).transpose();
        let service = match service_override {
            Some(ServiceOverride::GrpcService(service)) => {
                Some(cx.at("grpc_service", |cx| Service::build_grpc(service, cx)))
            }
            Some(ServiceOverride::HttpService(service)) => {
                Some(cx.at("http_service", |cx| Service::build_http(service, cx)))
            }
            None => None,
        };
        Ok(Self {
            extensions: context_extensions.clone(),
            without_body: *disable_request_body_buffering,
            body: body?,
            service: service.transpose()?,
            ..nothing
        })
    }
}
