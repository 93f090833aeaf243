//! Listeners that have something that another lacks: what it costs is measured against that.

use crate::options::Measure;
use crate::policies::policies;

/// A listener that forwards to the backend, with that feature.
pub(crate) fn listener(feature: Measure, port: u16) -> String {
    let (filter, route) = match feature {
        Measure::Policies => (policies(64), ""),
        Measure::Retries => (
            String::new(),
            ", retry_policy: {retry_on: \"5xx,reset,connect-failure,refused-stream\", num_retries: 3, per_try_timeout: 5s, retry_host_predicate: [{name: envoy.retry_host_predicates.previous_hosts, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate}}]}",
        ),
        Measure::LocalLimit => (LOCAL_LIMIT.to_owned(), ""),
        _ => (
            GLOBAL_LIMIT.to_owned(),
            ", rate_limits: [{actions: [{remote_address: {}}, {generic_key: {descriptor_value: bench}}]}]",
        ),
    };
    let name = feature.name();
    format!(
        "  - name: {name}
    address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          \"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: {name}
          route_config:
            virtual_hosts: [{{name: all, domains: [\"*\"], routes: [{{match: {{prefix: /}}, route: {{cluster: h1{route}}}}}]}}]
          http_filters:
{filter}          - name: envoy.filters.http.router
            typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
"
    )
}

/// A bucket that is never empty.
const LOCAL_LIMIT: &str = "          - name: envoy.filters.http.local_ratelimit
            typed_config:
              \"@type\": type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit
              stat_prefix: bench
              token_bucket: {max_tokens: 4000000000, tokens_per_fill: 4000000000, fill_interval: 1s}
              filter_enabled: {default_value: {numerator: 100}}
              filter_enforced: {default_value: {numerator: 100}}
";

/// A service that lets everything pass.
const GLOBAL_LIMIT: &str = "          - name: envoy.filters.http.ratelimit
            typed_config:
              \"@type\": type.googleapis.com/envoy.extensions.filters.http.ratelimit.v3.RateLimit
              domain: bench
              timeout: 5s
              rate_limit_service: {transport_api_version: V3, grpc_service: {envoy_grpc: {cluster_name: limiter}}}
";
