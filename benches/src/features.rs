//! Listeners that have something that another lacks: what it costs is measured against that.

use crate::options::Measure;
use crate::policies::{LOCAL_LIMIT, RETRIES, policies};

/// A listener that forwards to the backend, with that feature.
pub(crate) fn listener(feature: Measure, port: u16) -> String {
    let (filter, route) = match feature {
        Measure::Policies => (policies(64), ""),
        Measure::Retries => (String::new(), RETRIES),
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

/// A service that lets everything pass.
const GLOBAL_LIMIT: &str = "          - name: envoy.filters.http.ratelimit
            typed_config:
              \"@type\": type.googleapis.com/envoy.extensions.filters.http.ratelimit.v3.RateLimit
              domain: bench
              timeout: 5s
              rate_limit_service: {transport_api_version: V3, grpc_service: {envoy_grpc: {cluster_name: limiter}}}
";
