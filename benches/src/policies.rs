//! Access control as meshes write it.

/// The filter, with `count` policies about who may do what to which paths, of which the last holds.
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
