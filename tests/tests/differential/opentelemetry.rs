//! Traces of OpenTelemetry: what hosts are told of the same requests, which spans a collector gets over HTTP and over gRPC, and what logs print.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use integration::client::Client;
use integration::collector::Collector;
use integration::config::{H2_CLUSTER, HttpListener, bootstrap, cluster, file_log, fill, port};
use integration::expect::{SOON, eventually, whole_lines};
use integration::http1::field;
use integration::process::{Binary, Proxy};
use integration::upstream::{Reply, Upstream};
use prost::Message;
use xds_api::opentelemetry::proto::collector::trace::v1::ExportTraceServiceRequest;
use xds_api::opentelemetry::proto::common::v1::KeyValue;
use xds_api::opentelemetry::proto::common::v1::any_value::Value;
use xds_api::opentelemetry::proto::trace::v1::{ResourceSpans, Span};

const TRACE: &str = "463ac35c9f6413ad48485a3953bb6124";
/// Its first bytes are an even number of little endian, as those of the other are an odd one.
const ZEROS: &str = "000000000000000048485a3953bb6124";
const SPAN: &str = "a2fb4a1d1a96d312";

const ROUTES: &str = r#"
- match: {prefix: /decorated}
  route: {cluster: up}
  decorator: {operation: decorated}
- match: {prefix: /direct}
  direct_response: {status: 404}
- match: {prefix: /never}
  route: {cluster: up}
  tracing: {random_sampling: {numerator: 0}}
- match: {prefix: /}
  route: {cluster: up}
"#;

const HTTP: &str = "http_service: {http_uri: {uri: \"http://spans.test/v1/traces\", cluster: web, timeout: 1s}, request_headers_to_add: [{header: {key: x-key, value: secret}, append_action: OVERWRITE_IF_EXISTS_OR_ADD}]}";
const GRPC: &str = "grpc_service: {envoy_grpc: {cluster_name: rpc, authority: spans.test}, timeout: 1s, initial_metadata: [{key: x-key, value: secret}]}";

/// A tracing connection manager.
fn listener(more: &str, provider: &str) -> String {
    let options = format!(
        r#"tracing:
  provider:
    name: envoy.tracers.opentelemetry
    typed_config:
      "@type": type.googleapis.com/envoy.config.trace.v3.OpenTelemetryConfig
{}  {more}
"#,
        integration::config::indent(provider, 6)
    );
    let format =
        "log_format: {text_format_source: {inline_string: \"%REQ(:PATH)% %TRACE_ID% %SPAN_ID%\\n\"}}";
    HttpListener::new("traced", ROUTES).options(&options).logs(&file_log(format)).yaml()
}

fn requests() -> Vec<(&'static str, String)> {
    let none = String::new;
    let of = |trace: &str, flags: &str| format!("traceparent: 00-{trace}-{SPAN}-{flags}\r\n");
    vec![
        ("/plain", none()),
        ("/sampled", of(TRACE, "01")),
        ("/unsampled", of(TRACE, "00")),
        ("/flags", of(TRACE, "ff")),
        ("/upper", of(&TRACE.to_uppercase(), "01")),
        ("/version", format!("traceparent: cc-{TRACE}-{SPAN}-01\r\n")),
        ("/long", format!("traceparent: 00-{TRACE}-{SPAN}-01-more\r\n")),
        ("/short-id", of(ZEROS, "01")),
        ("/bad", "traceparent: no\r\ntracestate: a=1\r\n".to_owned()),
        ("/no-trace", of("00000000000000000000000000000000", "01")),
        ("/no-span", format!("traceparent: 00-{TRACE}-0000000000000000-01\r\n")),
        ("/twice", format!("{}traceparent: no\r\n", of(TRACE, "01"))),
        ("/state", format!("{}tracestate: a=1,b=2\r\n", of(TRACE, "01"))),
        ("/states", format!("{}tracestate: a=1\r\ntracestate: b=2\r\n", of(TRACE, "01"))),
        ("/state-alone", "tracestate: a=1\r\n".to_owned()),
        ("/state-unsampled", format!("{}tracestate: a=1\r\n", of(TRACE, "00"))),
        ("/b3", "x-b3-sampled: 0\r\n".to_owned()),
        ("/decorated", none()),
        ("/direct", none()),
        ("/never", none()),
        ("/never-sampled", of(TRACE, "01")),
        ("/failed", none()),
        ("/missing", none()),
        ("/last", none()),
    ]
}

/// An id that varies as its length; others as they are.
fn id(text: &str) -> String {
    let is_known = [TRACE, ZEROS, SPAN].iter().any(|known| known.eq_ignore_ascii_case(text));
    let is_id = text.len() >= 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_id && !is_known { format!("<{}>", text.len()) } else { text.to_owned() }
}

fn hex(bytes: &[u8]) -> String {
    id(&bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
}

fn attributes(all: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |one: &KeyValue| match one.value.as_ref().and_then(|value| value.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        other => format!("{other:?}"),
    };
    all.iter().map(|one| (one.key.clone(), text(one))).collect()
}

/// What a span says that is the same every time.
fn said(span: &Span) -> (String, BTreeMap<String, String>) {
    let mut facts = BTreeMap::from([
        ("name".to_owned(), span.name.clone()),
        ("kind".to_owned(), format!("{:?}", span.kind())),
        ("trace".to_owned(), hex(&span.trace_id)),
        ("span".to_owned(), hex(&span.span_id)),
        ("parent".to_owned(), hex(&span.parent_span_id)),
        ("state".to_owned(), span.trace_state.clone()),
        ("flags".to_owned(), span.flags.to_string()),
        ("status".to_owned(), format!("{:?}", span.status)),
        ("links".to_owned(), span.links.len().to_string()),
    ]);
    let events: Vec<_> = span.events.iter().map(|event| event.name.clone()).collect();
    facts.insert("events".to_owned(), events.join(" "));
    assert!(span.start_time_unix_nano <= span.end_time_unix_nano, "{span:?}");
    let attributes = attributes(&span.attributes);
    let key = attributes.get("http.url").unwrap_or(&span.name).clone();
    for (name, value) in attributes {
        let value = match name.as_str() {
            "guid:x-request-id" => value.get(14..15).unwrap_or_default().to_owned(),
            // (The port of the host, which is of one run.)
            "upstream_address" => "host".to_owned(),
            "peer.address" => value.split(':').next().unwrap_or_default().to_owned(),
            _ => value,
        };
        facts.insert(format!("attribute {name}"), value);
    }
    (format!("{key} {}", facts["kind"]), facts)
}

type Facts = BTreeMap<String, BTreeMap<String, String>>;

/// The reports that came to either collector, and what came along.
fn reports(web: &Upstream, rpc: &Collector) -> Vec<(BTreeMap<String, String>, ExportTraceServiceRequest)> {
    let text = |value: Option<&str>| value.unwrap_or("-").to_owned();
    let of_web = web.received().into_iter().map(|report| {
        let head = ["host", "content-type", "x-key"]
            .map(|name| (name.to_owned(), text(field(&report.fields, name))))
            .into_iter()
            .chain([("line".to_owned(), report.line.clone())]);
        (head.collect(), report.body.to_vec())
    });
    let of_rpc = rpc.messages().into_iter().map(|message| {
        let value = |name: &str| text(message.fields.get(name).and_then(|value| value.to_str().ok()));
        let head = ["content-type", "x-key", "te"].map(|name| (name.to_owned(), value(name)));
        (head.into_iter().chain([("line".to_owned(), message.path.clone())]).collect(), message.bytes)
    });
    let all = of_web.chain(of_rpc);
    all.filter_map(|(head, body)| Some((head, ExportTraceServiceRequest::decode(&*body).ok()?))).collect()
}

/// Who the spans are of: proxies say who they are.
fn resource(spans: &ResourceSpans) -> BTreeMap<String, String> {
    let resource =
        spans.resource.as_ref().map(|resource| attributes(&resource.attributes)).unwrap_or_default();
    let own = |(name, value): (String, String)| {
        let is_own = name.starts_with("telemetry.sdk.");
        (name, if is_own { "own".to_owned() } else { value })
    };
    let mut facts: BTreeMap<_, _> = resource.into_iter().map(own).collect();
    facts.insert("schema".to_owned(), spans.schema_url.clone());
    let scopes = spans.scope_spans.iter().map(|scope| scope.scope.is_some().to_string());
    facts.insert("scopes".to_owned(), scopes.collect::<Vec<_>>().join(" "));
    facts
}

/// Everything that is observable of the requests.
async fn observe(binary: &Binary, listener: &str) -> Result<Facts> {
    let (upstream, web, rpc) =
        (Upstream::start().await?, Upstream::start().await?, Collector::start().await?);
    web.script(vec![Reply::raw("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"); 100]);
    let clusters = [cluster("up", "up", ""), cluster("web", "web", ""), cluster("rpc", "rpc", H2_CLUSTER)];
    let rest = "node: {id: me, cluster: mine, locality: {zone: here}}\nlayered_runtime: {layers: [{name: s, static_layer: {tracing.opentelemetry.min_flush_spans: 1}}]}\n";
    let ports = [("up", port(upstream.addr())), ("web", port(web.addr())), ("rpc", port(rpc.addr()))];
    let yaml = fill(&bootstrap(&[listener.to_owned()], &clusters, rest), ports);
    let proxy = Proxy::start(binary, &yaml).await?;
    let mut client = Client::connect(proxy.listener("traced")?).await?;
    let mut facts = Facts::new();
    for (path, lines) in requests() {
        upstream.script([match path {
            "/failed" => Reply::raw("HTTP/1.1 503 no\r\ncontent-length: 0\r\n\r\n"),
            "/missing" => Reply::raw("HTTP/1.1 404 no\r\ncontent-length: 0\r\n\r\n"),
            _ => Reply::raw("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"),
        }]);
        let before = upstream.received().len();
        client.send(format!("GET {path} HTTP/1.1\r\nhost: test\r\n{lines}\r\n").as_bytes()).await?;
        let response = client.response("GET", SOON).await?.head;
        let mut seen = BTreeMap::from([("status".to_owned(), response.status()?.to_string())]);
        if let Some(received) = upstream.received().get(before) {
            for name in ["traceparent", "tracestate"] {
                let values = received.fields.iter().filter(|(field, _)| field.eq_ignore_ascii_case(name));
                let values = values.map(|(_, value)| value.split('-').map(id).collect::<Vec<_>>().join("-"));
                seen.insert(name.to_owned(), values.collect::<Vec<_>>().join(" & "));
            }
        }
        facts.insert(format!("request {path}"), seen);
    }
    let reports = eventually("spans of all sampled requests", SOON, async || {
        let reports = reports(&web, &rpc);
        let spans = || spans_of(&reports);
        let url = |span: &Span| attributes(&span.attributes).get("http.url").cloned();
        let is_last_there = spans().filter_map(url).any(|url| url.ends_with("/last"));
        let sent = proxy.admin().stat("tracing.opentelemetry.spans_sent").await.ok()?;
        (is_last_there && usize::try_from(sent).ok()? == spans().count()).then_some(reports)
    })
    .await?;
    // (Reports are calls of their own: the order in which they come is any.)
    let mut spans: Vec<_> = spans_of(&reports).map(said).collect();
    spans.sort();
    for (mut key, said) in spans {
        while facts.contains_key(&key) {
            key.push('+');
        }
        facts.insert(key, said);
    }
    let (head, report) = reports.first().context("no report")?;
    facts.insert("report".to_owned(), head.clone());
    facts.insert("resource".to_owned(), resource(report.resource_spans.first().context("no spans")?));
    let log = proxy.dir().join("access.log");
    let lines = eventually("all lines of the log", SOON, async || {
        let lines = whole_lines(&log);
        (lines.len() == requests().len()).then_some(lines)
    })
    .await?;
    let lines = lines.iter().map(|line| line.split(' ').map(id).collect::<Vec<_>>());
    let lines = lines.map(|words| (words[0].clone(), words[1..].join(" ")));
    facts.insert("log".to_owned(), lines.collect());
    Ok(facts)
}

fn spans_of(
    reports: &[(BTreeMap<String, String>, ExportTraceServiceRequest)],
) -> impl Iterator<Item = &Span> {
    let resources = reports.iter().flat_map(|(_, report)| &report.resource_spans);
    resources.flat_map(|resource| &resource.scope_spans).flat_map(|scope| &scope.spans)
}

async fn compare(listener: &str) -> Result<()> {
    let left = observe(&Binary::envoy()?, listener).await?;
    let right = observe(&Binary::subject()?, listener).await?;
    let mut text = String::new();
    for key in left.keys().chain(right.keys().filter(|key| !left.contains_key(*key))) {
        let (one, other) = (left.get(key), right.get(key));
        if one != other {
            text.push_str(&format!("{key}\n  envoy: {one:?}\n  ours:  {other:?}\n"));
        }
    }
    assert!(text.is_empty(), "{text}");
    Ok(())
}

#[tokio::test]
async fn spans_over_http_are_those_of_envoy() -> Result<()> {
    compare(&listener("verbose: true", &format!("{HTTP}\nservice_name: me\n"))).await
}

#[tokio::test]
async fn spans_over_grpc_are_those_of_envoy() -> Result<()> {
    let provider =
        format!("{GRPC}\nset_telemetry_sdk_resource_attributes: false\nset_instrumentation_scope: false\n");
    let more =
        "spawn_upstream_span: true\n  custom_tags: [{tag: own, literal: {value: tag}}]\n  verbose: true";
    compare(&listener(more, &provider)).await
}

#[tokio::test]
async fn outbound_spans_of_opentelemetry_are_of_clients() -> Result<()> {
    let provider = format!("{HTTP}\nset_service_name_resource_attribute: false\n");
    compare(&format!("{}  traffic_direction: OUTBOUND\n", listener("", &provider))).await
}

#[tokio::test]
async fn samplers_decide_as_in_envoy() -> Result<()> {
    let sampler = |name: &str, more: &str| {
        format!(
            "{{name: s, typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.tracers.opentelemetry.samplers.v3.{name}SamplerConfig{more}}}}}"
        )
    };
    let ratio = |percent: u32| {
        sampler("TraceIdRatioBased", &format!(", sampling_percentage: {{numerator: {percent}}}"))
    };
    let detectors = "resource_detectors: [{name: s, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.tracers.opentelemetry.resource_detectors.v3.StaticConfigResourceDetectorConfig, attributes: {a: b, service.name: other}}}, {name: e, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.tracers.opentelemetry.resource_detectors.v3.EnvironmentResourceDetectorConfig}}]";
    for sampler in [
        sampler("AlwaysOn", ""),
        ratio(100),
        sampler("ParentBased", &format!(", wrapped_sampler: {}", ratio(100))),
    ] {
        let provider = format!("{HTTP}\nservice_name: me\n{detectors}\nsampler: {sampler}\n");
        compare(&listener("", &provider)).await.with_context(|| sampler.clone())?;
    }
    Ok(())
}
