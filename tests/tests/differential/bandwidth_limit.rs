//! Bodies that go no faster than a rate (`envoy.filters.http.bandwidth_limit`).

use integration::config::HttpListener;
use integration::differential::{Case, H2Request, Setup};
use integration::upstream::h2::H2Reply;

const TYPE: &str =
    "\"@type\": type.googleapis.com/envoy.extensions.filters.http.bandwidth_limit.v3.BandwidthLimit";

/// What a bucket of 1 KiB a second does not have, so that a body of it waits.
const LONG: &str = match std::str::from_utf8(&[b'b'; 1300]) {
    Ok(long) => long,
    Err(_) => "",
};

const RUNTIME: &str = "
layered_runtime:
  layers:
  - name: static
    static_layer: {ours.off: false, ours.on: true}
";

fn listener(name: &str, config: &str) -> HttpListener {
    let filter = format!("- name: bandwidth\n  typed_config: {{{TYPE}, stat_prefix: {name}, {config}}}\n");
    HttpListener::to_up(name).filters(&filter)
}

pub(crate) fn setup() -> Setup {
    let routes = {
        let route = |prefix: &str, config: &str| {
            format!(
                "- match: {{prefix: {prefix}}}\n  route: {{cluster: up}}\n  typed_per_filter_config: {{bandwidth: {{{TYPE}, stat_prefix: per_route, {config}}}}}\n"
            )
        };
        let list = [
            route("/limited", "limit_kbps: 1, enable_mode: RESPONSE, enable_response_trailers: true"),
            route("/unlimited", "limit_kbps: 1"),
            format!(
                "- match: {{prefix: /direct}}\n  direct_response: {{status: 200, body: {{inline_string: {LONG}}}}}\n"
            ),
            "- match: {prefix: /}\n  route: {cluster: up}\n".to_owned(),
        ];
        let filter = format!(
            "- name: bandwidth\n  typed_config: {{{TYPE}, stat_prefix: per_route, limit_kbps: 1, enable_mode: RESPONSE}}\n"
        );
        HttpListener::new("per_route", &list.concat()).filters(&filter)
    };
    let both = "enable_mode: REQUEST_AND_RESPONSE";
    let slow = "limit_kbps: 1, enable_response_trailers: true";
    let h2_up = "- match: {prefix: /}\n  route: {cluster: h2up}";
    let trailers = {
        let filter = format!(
            "- name: bandwidth\n  typed_config: {{{TYPE}, stat_prefix: trailers, {slow}, enable_mode: RESPONSE}}\n"
        );
        HttpListener::new("trailers", h2_up).filters(&filter)
    };
    // A host that has said all in time, and one that has not got all.
    let limited_host = {
        let filter = format!(
            "- name: bandwidth\n  typed_config: {{{TYPE}, stat_prefix: limited_host, limit_kbps: 100, {both}}}\n"
        );
        HttpListener::new("limited_host", "- match: {prefix: /}\n  route: {cluster: up, timeout: 0.2s}\n")
            .filters(&filter)
    };
    let listeners = [
        listener("unlimited", "limit_kbps: 1"),
        listener("none", "limit_kbps: 1, enable_mode: DISABLED, runtime_enabled: {default_value: true}"),
        listener("fast", &format!("limit_kbps: 100000, {both}")),
        listener("flag", &format!("limit_kbps: 1, {both}, runtime_enabled: {{default_value: false}}")),
        listener(
            "key_off",
            &format!(
                "limit_kbps: 1, {both}, runtime_enabled: {{default_value: true, runtime_key: ours.off}}"
            ),
        ),
        listener(
            "key_on",
            &format!(
                "limit_kbps: 100000, {both}, runtime_enabled: {{default_value: false, runtime_key: ours.on}}"
            ),
        ),
        listener("slow_request", &format!("{slow}, enable_mode: REQUEST")),
        listener("slow_chunks", &format!("{slow}, enable_mode: REQUEST, fill_interval: 0.02s")),
        listener("slow_response", &format!("{slow}, enable_mode: RESPONSE, response_trailer_prefix: Ours")),
        listener("request_told", &format!("{slow}, {both}")),
        listener("h1_trailers", &format!("{slow}, enable_mode: RESPONSE"))
            .options("http_protocol_options: {enable_trailers: true}"),
        trailers,
        routes,
        listener("in_time", "limit_kbps: 100, enable_mode: REQUEST").options("request_timeout: 0.2s"),
        listener("too_long", "limit_kbps: 1, enable_mode: REQUEST")
            .options("common_http_protocol_options: {max_stream_duration: 0.1s}"),
        limited_host,
    ];
    let mut setup = Setup::new("bandwidth", listeners.map(|listener| listener.yaml()));
    setup.bootstrap.push_str(RUNTIME);
    setup
}

pub(crate) fn cases() -> Vec<Case> {
    let post = |name, listener, target: &str, body: &str| {
        let length = body.len();
        let text = format!("POST {target} HTTP/1.1\r\nhost: test\r\ncontent-length: {length}\r\n\r\n{body}");
        Case::send(name, listener, text)
    };
    let chunks = |body: &str| format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
    let long = || format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{LONG}", LONG.len());
    let chunked = || format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{}", chunks(LONG));
    let h2 = |name, listener, request: H2Request| Case::h2(name, listener, [request]);
    let chunked_post =
        format!("POST / HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n{}", chunks(LONG));
    let cases = vec![
        post("off", "unlimited", "/", LONG),
        post("no mode", "none", "/", LONG),
        post("off by its flag", "flag", "/", LONG),
        post("off by a runtime key", "key_off", "/", LONG),
        post("on by a runtime key", "key_on", "/", LONG).raw(long()),
        Case::get("no body", "fast", "/", "").raw("HTTP/1.1 204 No Content\r\n\r\n"),
        Case::send("head", "fast", "HEAD / HTTP/1.1\r\nhost: test\r\n\r\n"),
        post("enough for both", "fast", "/", LONG).raw(long()),
        h2("enough for both over http2", "fast", H2Request::post("http://test/", LONG)).raw(long()),
        post("a request that waits", "slow_request", "/", LONG).raw(long()),
        Case::send("a request in chunks that waits", "slow_chunks", chunked_post),
        h2("a response that waits", "slow_response", H2Request::get("http://test/")).raw(long()),
        h2("a request that waits is told of", "request_told", H2Request::post("http://test/", LONG))
            .varies("response[0].trailer.bandwidth-response-delay-ms", "Whether a millisecond has passed"),
        Case::get("trailers over http1", "h1_trailers", "/", "").raw(chunked()),
        h2("trailers of its own", "trailers", H2Request::get("http://test/"))
            .h2_reply(H2Reply::new(200, LONG).trailer("x-own", "1")),
        h2("a route that is limited", "per_route", H2Request::get("http://test/limited")).raw(chunked()),
        Case::get("a route that is not", "per_route", "/unlimited", "").raw(long()),
        Case::get("a direct response", "per_route", "/direct", ""),
        // (A bucket of 100 KiB, which half a second fills by half.)
        post("a request that has come in time", "in_time", "/", &"b".repeat(150 * 1024)),
        post("a request that waits too long", "too_long", "/", &"b".repeat(20 * 1024))
            .varies("upstream[0].body", BY_CLOCK)
            .varies("counter too_long.http_bandwidth_limit.request_allowed_total_size", BY_CLOCK)
            .differs(
                "counter too_long.http_bandwidth_limit.request_pending",
                "what is given up waits no more; Envoy goes on counting it",
            ),
        post("a request that the host gets late", "limited_host", "/", &"b".repeat(150 * 1024)),
        Case::get("a response that the client gets late", "limited_host", "/", "").raw(format!(
            "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{}",
            150 * 1024,
            "b".repeat(150 * 1024)
        )),
    ];
    cases.into_iter().map(apart_from_sizes).collect()
}

const BY_CLOCK: &str = "how much passes in time is up to the clock";

/// How a body is cut is up to its transport, and how often it finds too little to the clock.
fn apart_from_sizes(mut case: Case) -> Case {
    for last in [
        "request_incoming_size",
        "request_allowed_size",
        "response_incoming_size",
        "response_allowed_size",
        "request_enforced",
        "response_enforced",
    ] {
        let name = format!("counter {}.http_bandwidth_limit.{last}", case.listener);
        case = case.varies(name.leak(), "pieces of bodies are cut by transport and clock");
    }
    case
}
