//! What meshes add to listeners and routes: access control, retries, limits.

/// The filter of access control, with `count` policies about who may do what to which paths, of which the last holds.
pub(crate) fn policies(count: usize) -> String {
    let policy = |(name, prefix): (String, String)| {
        format!(
            "                  \"{name}\":
                    permissions: [{{and_rules: {{rules: [{{header: {{name: \":method\", string_match: {{exact: GET}}}}}}, {{url_path: {{path: {{prefix: {prefix}}}}}}}]}}}}]
                    principals: [{{or_ids: {{ids: [{{authenticated: {{principal_name: {{exact: \"spiffe://td/{name}\"}}}}}}, {{direct_remote_ip: {{address_prefix: 127.0.0.0, prefix_len: 8}}}}]}}}}]
"
        )
    };
    let last = count - 1;
    let named = (0..last).map(|at| (format!("policy-{at:03}"), format!("/service-{at}/")));
    let policies: String = named.chain([("policy-last".to_owned(), "/".to_owned())]).map(policy).collect();
    format!(
        "          - name: rbac
            typed_config:
              \"@type\": type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC
              rules:
                policies:
{policies}"
    )
}

/// What a route has, behind its cluster, to try again what fails.
pub(crate) const RETRIES: &str = ", retry_policy: {retry_on: \"5xx,reset,connect-failure,refused-stream\", num_retries: 3, per_try_timeout: 5s, retry_host_predicate: [{name: envoy.retry_host_predicates.previous_hosts, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate}}]}";

/// The filter of local rate limits, with a bucket that is never empty.
pub(crate) const LOCAL_LIMIT: &str = "          - name: envoy.filters.http.local_ratelimit
            typed_config:
              \"@type\": type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit
              stat_prefix: bench
              token_bucket: {max_tokens: 4000000000, tokens_per_fill: 4000000000, fill_interval: 1s}
              filter_enabled: {default_value: {numerator: 100}}
              filter_enforced: {default_value: {numerator: 100}}
";
