//! Which requests access logs are told of where it depends on traces.

use integration::config::{HttpListener, LOG_FORMAT, file_log};
use integration::differential::{Case, Setup};

const HEALTH: &str = r#"- name: health
  typed_config:
    "@type": type.googleapis.com/envoy.extensions.filters.http.health_check.v3.HealthCheck
    pass_through_mode: false
    headers: [{name: ":path", string_match: {exact: /health}}]
"#;
/// An id that says that the request is traced for its client, for a service, by chance.
const IDS: [&str; 3] = [
    "11111111-1111-b111-a111-111111111111",
    "11111111-1111-a111-a111-111111111111",
    "11111111-1111-9111-a111-111111111111",
];
const UNTRACED: &str = "11111111-1111-4111-a111-111111111111";

const INSIDE: &str = "internal_address_config: {cidr_ranges: [{address_prefix: 10.0.0.0, prefix_len: 8}]}";

fn log(filter: &str, more: &str) -> String {
    let filter = format!("  filter: {filter}\n");
    let format = format!("log_format: {{text_format_source: {{inline_string: \"{more}{LOG_FORMAT}\"}}}}");
    file_log(&format).replacen("  typed_config", &format!("{filter}  typed_config"), 1)
}

fn listener(name: &str, options: &str) -> String {
    let both = "{or_filter: {filters: [{traceable_filter: {}}, {header_filter: {header: {name: x-sentinel, present_match: true}}}]}}";
    let not_health = "{and_filter: {filters: [{traceable_filter: {}}, {not_health_check_filter: {}}]}}";
    let logs = log("{traceable_filter: {}}", "by=traceable|") + &log(not_health, "by=and|") + &log(both, "");
    HttpListener::to_up(name).options(options).filters(HEALTH).logs(&logs).yaml()
}

pub(crate) fn setup() -> Setup {
    Setup::new(
        "log_filters",
        [
            listener("never", &format!("tracing: {{random_sampling: {{value: 0}}}}\n{INSIDE}")),
            listener("all", "tracing: {random_sampling: {value: 100}}"),
            listener("overall", "tracing: {random_sampling: {value: 100}, overall_sampling: {value: 0}}"),
            listener("without", ""),
        ],
    )
}

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for listener in ["never", "all", "overall", "without"] {
        let mut get = |name, target: &str, lines: &str| cases.push(Case::get(name, listener, target, lines));
        get("nothing is said of traces", "/", "");
        for id in IDS {
            get("the id says that it is traced", "/", &format!("x-request-id: {id}\r\n"));
        }
        get("the id says nothing of traces", "/", &format!("x-request-id: {UNTRACED}\r\n"));
        get("the id is none", "/", "x-request-id: strange\r\n");
        get("the client asks for a trace", "/", "x-client-trace-id: c\r\n");
        get("a service asks for a trace", "/", "x-envoy-force-trace: 1\r\n");
        get(
            "a service inside asks for a trace",
            "/",
            "x-forwarded-for: 10.0.0.1\r\nx-envoy-force-trace: 1\r\n",
        );
        get("a health check", "/health", "");
        get("a health check that is traced", "/health", &format!("x-request-id: {}\r\n", IDS[1]));
    }
    cases
}
