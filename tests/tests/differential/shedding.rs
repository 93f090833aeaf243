//! Requests that are refused because others fail or take long (`admission_control`, `adaptive_concurrency`), where it is no chance.

use integration::config::{HttpListener, file_log};
use integration::differential::{Case, Do, H2Request, Setup};
use integration::frames::{END_HEADERS, END_STREAM, HEADERS, frame, get_block};
use integration::upstream::Reply;
use integration::upstream::h2::H2Reply;

const ADMISSION: &str =
    "\"@type\": type.googleapis.com/envoy.extensions.filters.http.admission_control.v3.AdmissionControl";
const CONCURRENCY: &str = "\"@type\": type.googleapis.com/envoy.extensions.filters.http.adaptive_concurrency.v3.AdaptiveConcurrency";

const LOG: &str = "log_format: {text_format_source: {inline_string: \"s=%REQ(x-sentinel)%|code=%RESPONSE_CODE%\
|details=%RESPONSE_CODE_DETAILS%|flags=%RESPONSE_FLAGS%|grpc=%GRPC_STATUS_NUMBER%|sent=%BYTES_SENT%\\n\"}}";

/// Refuses all requests as soon as too few went well.
const SURELY: &str = "aggression: {default_value: 1000000, runtime_key: none}, max_rejection_probability: {default_value: {value: 100}, runtime_key: none}";

/// Refuses nothing, and judges all.
const NEVER: &str = "max_rejection_probability: {default_value: {value: 0}, runtime_key: none}";

/// Looks at its samples once an hour: the minimum takes one request, and all else stays as it is.
const STILL: &str = "gradient_controller_config: {concurrency_limit_params: {concurrency_update_interval: 3600s}, \
min_rtt_calc_params: {interval: 3600s, request_count: 1, min_concurrency: 1}}";

fn listener(name: &str, cluster: &str, config: &str) -> HttpListener {
    let filter = format!("- name: shed\n  typed_config: {{{config}}}\n");
    HttpListener::new(name, &format!("- match: {{prefix: /}}\n  route: {{cluster: {cluster}}}"))
        .filters(&filter)
        .logs(&file_log(LOG))
}

const RUNTIME: &str = "
layered_runtime:
  layers:
  - name: static
    static_layer: {ours.no: false, ours.gentle: 0}
";

pub(crate) fn setup() -> Setup {
    let admission = |name: &str, cluster: &str, more: &str| {
        listener(name, cluster, &format!("{ADMISSION}, success_criteria: {{}}, {more}"))
    };
    let narrow = "success_criteria: {http_criteria: {http_success_status: [{start: 200, end: 300}]}, grpc_criteria: {grpc_success_status: [0, 14]}}";
    let gentle = "aggression: {default_value: 1000000, runtime_key: none}, max_rejection_probability: {default_value: {value: 100}, runtime_key: ours.gentle}";
    let listeners = [
        admission("refusing", "up", SURELY),
        admission("refusing_calls", "h2up", SURELY),
        admission("judging", "h2up", &format!("enabled: {{default_value: true}}, {NEVER}")),
        admission(
            "rate",
            "up",
            &format!("{SURELY}, rps_threshold: {{default_value: 1000, runtime_key: none}}"),
        ),
        admission("gentle", "up", gentle),
        admission(
            "never",
            "up",
            &format!("{SURELY}, enabled: {{default_value: true, runtime_key: ours.no}}"),
        ),
        admission(
            "threshold",
            "up",
            &format!("{SURELY}, sr_threshold: {{default_value: {{value: 50}}, runtime_key: none}}"),
        ),
        listener("narrow", "h2up", &format!("{ADMISSION}, {narrow}, {NEVER}")),
        listener("one", "up", &format!("{CONCURRENCY}, {STILL}")),
        listener("crowd", "up", &format!("{CONCURRENCY}, {STILL}")),
        listener(
            "teapot",
            "up",
            &format!("{CONCURRENCY}, {STILL}, concurrency_limit_exceeded_status: {{code: 429}}"),
        ),
        listener(
            "unlimited",
            "up",
            &format!("{CONCURRENCY}, {STILL}, enabled: {{default_value: true, runtime_key: ours.no}}"),
        ),
    ];
    let mut setup = Setup::new("shedding", listeners.map(|listener| listener.yaml()));
    setup.bootstrap.push_str(RUNTIME);
    setup
}

const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: test\r\n\r\n";
const FAILED: &str = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n";
const FINE: &str = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";

/// Requests one after the other on one connection.
fn requests(name: &'static str, listener: &'static str, answers: &[&str], count: usize) -> Case {
    let one = || [Do::Send(GET.to_vec()), Do::Response("GET")];
    let mut case = Case::steps(name, listener, (0..count).flat_map(|_| one()));
    case.upstream = answers.iter().map(Reply::raw).collect();
    case
}

pub(crate) fn cases() -> Vec<Case> {
    let call = |name, listener, reply: H2Reply| {
        let request = H2Request::post("http://test/", "x").field("content-type", "application/grpc");
        Case::h2(name, listener, [request]).h2_reply(reply)
    };
    let at_once = |name, listener| {
        let get = |stream| frame(HEADERS, END_HEADERS | END_STREAM, stream, &get_block("/"));
        Case::frames(name, listener, [get(1), get(3), get(5)]).raw(FINE)
    };
    let answer = |status| H2Reply::new(status, "x").field("content-type", "application/grpc");
    vec![
        requests("what goes well goes on", "refusing", &[FINE, FINE], 2),
        requests("what fails has the next refused", "refusing", &[FAILED], 3),
        Case::send(
            "a call is refused",
            "refusing",
            "POST / HTTP/1.1\r\nhost: test\r\ncontent-type: application/grpc\r\ncontent-length: 1\r\n\r\nx",
        ),
        Case::h2("refused over http2", "refusing", [H2Request::get("http://test/")]),
        requests("below the rate", "rate", &[FAILED, FAILED, FAILED], 3),
        requests("by chance of nothing", "gentle", &[FAILED, FAILED, FAILED], 3),
        requests("switched off", "never", &[FAILED, FAILED], 2),
        requests("half is enough", "threshold", &[FINE, FAILED, FINE, FAILED], 4),
        call("a call that went well", "judging", answer(200).trailer("grpc-status", "0")),
        call("a call that was not found", "judging", answer(200).trailer("grpc-status", "5")),
        call("a call that broke", "judging", answer(200).trailer("grpc-status", "13")),
        call("a call with an odd status", "judging", answer(200).trailer("grpc-status", "99")),
        call("a call without a status", "judging", answer(200).trailer("x-other", "1")),
        call("a call without trailers", "judging", answer(200)),
        call("a call that has no answer", "judging", answer(502).trailer("grpc-status", "0")),
        call("a call that ends at once", "judging", H2Reply::new(200, "").field("grpc-status", "14")),
        call("a reset", "judging", H2Reply::refuse(8)),
        call("another success", "narrow", answer(200).trailer("grpc-status", "14")),
        call("another failure", "narrow", answer(200).trailer("grpc-status", "1")),
        Case::h2("a redirect that is none", "narrow", [H2Request::get("http://test/")])
            .h2_reply(H2Reply::new(302, "")),
        call(
            "what fails has the next call refused",
            "refusing_calls",
            answer(200).trailer("grpc-status", "14"),
        ),
        Case::h2(
            "the next call",
            "refusing_calls",
            [H2Request::get("http://test/").field("content-type", "application/grpc")],
        ),
        requests("one after the other", "one", &[FINE, FINE, FINE], 3),
        at_once("more than one at once", "crowd"),
        at_once("another status", "teapot"),
        requests("not limited", "unlimited", &[FINE, FINE], 2),
    ]
}
