//! Traces: what hosts and clients are told of the same requests, which spans a collector of Zipkin gets, and what is counted.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use integration::client::Client;
use integration::config::{HttpListener, bootstrap, cluster, fill, port};
use integration::expect::{SOON, eventually};
use integration::http1::field;
use integration::process::{Binary, Proxy};
use integration::upstream::{Reply, Upstream};
use serde_json::Value;

const TRACE: &str = "463ac35c9f6413ad48485a3953bb6124";
const SPAN: &str = "a2fb4a1d1a96d312";
const PARENT: &str = "0020000000000001";

const ROUTES: &str = r#"
- match: {prefix: /decorated}
  route: {cluster: up}
  decorator: {operation: decorated}
- match: {prefix: /kept}
  route: {cluster: up}
  decorator: {operation: kept, propagate: false}
- match: {prefix: /direct}
  direct_response: {status: 200}
- match: {prefix: /never}
  route: {cluster: up}
  tracing: {random_sampling: {numerator: 0}}
- match: {prefix: /own}
  route: {cluster: up}
  tracing:
    operation: "own %REQ(:METHOD)%"
    upstream_operation: "try %REQ(:PATH)%"
    custom_tags: [{tag: literal, literal: {value: of the route}}, {tag: new, literal: {value: tag}}]
- match: {prefix: /}
  route: {cluster: up}
"#;

const TAGS: &str = r#"custom_tags:
  - {tag: literal, literal: {value: l}}
  - {tag: none, environment: {name: OUTRIGGER_NOPE}}
  - {tag: environment, environment: {name: OUTRIGGER_NOPE, default_value: d}}
  - {tag: header, request_header: {name: x-a, default_value: no header}}
  - {tag: no-header, request_header: {name: x-b}}
  - {tag: metadata, metadata: {kind: {request: {}}, metadata_key: {key: a, path: [{key: b}]}, default_value: m}}
  - {tag: value, value: "%REQ(:METHOD)% %RESPONSE_CODE%"}
"#;

/// A tracing connection manager.
fn listener(name: &str, more: &str, provider: &str) -> String {
    let options = format!(
        r#"tracing:
  provider:
    name: zipkin
    typed_config:
      "@type": type.googleapis.com/envoy.config.trace.v3.ZipkinConfig
      collector_cluster: collector
      collector_endpoint: /api/v2/spans
      collector_endpoint_version: HTTP_JSON
      {provider}
  {more}
"#
    );
    HttpListener::new(name, ROUTES).options(&options).yaml()
}

/// Paths and header lines; the last one is sampled always.
fn requests() -> Vec<(&'static str, String)> {
    let many = |sampled: &str| format!("x-b3-traceid: {TRACE}\r\nx-b3-spanid: {SPAN}\r\n{sampled}");
    let none = String::new;
    vec![
        ("/plain", none()),
        (
            "/headers",
            "x-a: y\r\nuser-agent: me\r\nx-client-trace-id: c\r\nx-envoy-downstream-service-cluster: sc\r\n"
                .to_owned(),
        ),
        ("/sampled", many("x-b3-sampled: 1\r\n")),
        ("/unsaid", many("")),
        ("/parent", many(&format!("x-b3-parentspanid: {PARENT}\r\nx-b3-sampled: true\r\n"))),
        ("/64", format!("x-b3-traceid: {SPAN}\r\nx-b3-spanid: {SPAN}\r\n")),
        ("/unsampled", many("x-b3-sampled: 0\r\n")),
        ("/flag", "x-b3-sampled: 0\r\n".to_owned()),
        ("/single", format!("b3: {TRACE}-{SPAN}-1-{PARENT}\r\n")),
        ("/single-two", format!("b3: {TRACE}-{SPAN}\r\n")),
        ("/single-flag", "b3: 0\r\n".to_owned()),
        ("/single-debug", "b3: d\r\n".to_owned()),
        ("/single-bad", "b3: x-y-1\r\n".to_owned()),
        ("/single-no-flag", "b3: x\r\n".to_owned()),
        ("/single-bad-flag", format!("b3: {TRACE}-{SPAN}-x\r\n")),
        ("/single-space", format!("b3: {TRACE}- {}-1\r\n", &SPAN[1..])),
        ("/twice", format!("x-b3-traceid: {TRACE}\r\nx-b3-traceid: 1\r\nx-b3-spanid: {SPAN}\r\n")),
        ("/prefix", "x-b3-traceid: 0x12\r\nx-b3-spanid: 0X3\r\n".to_owned()),
        ("/too-long", format!("x-b3-traceid: {TRACE}1\r\nx-b3-spanid: {SPAN}\r\n")),
        ("/huge", format!("b3: {}\r\n", "a".repeat(50_000))),
        ("/bad", "x-b3-traceid: zz\r\nx-b3-spanid: a2fb4a1d1a96d312\r\n".to_owned()),
        ("/w3c", format!("traceparent: 00-{TRACE}-{SPAN}-01\r\ntracestate: a=1\r\n")),
        ("/w3c-unsampled", format!("traceparent: 00-{TRACE}-{SPAN}-00\r\n")),
        ("/w3c-bad", "traceparent: 00-no\r\n".to_owned()),
        ("/w3c-and-b3", format!("{}traceparent: 00-{TRACE}-{PARENT}-00\r\n", many("x-b3-sampled: 1\r\n"))),
        ("/w3c-and-flag", format!("x-b3-sampled: 0\r\ntraceparent: 00-{TRACE}-{PARENT}-01\r\n")),
        ("/w3c-and-bad", format!("b3: x-y-1\r\ntraceparent: 00-{TRACE}-{PARENT}-01\r\n")),
        ("/decorated", none()),
        ("/decorated-over", "x-envoy-decorator-operation: over\r\n".to_owned()),
        ("/kept", none()),
        ("/direct", none()),
        ("/never", none()),
        ("/never-client", "x-client-trace-id: c\r\n".to_owned()),
        ("/never-forced", "x-request-id: 11111111-1111-a111-a111-111111111111\r\n".to_owned()),
        ("/never-id", "x-request-id: 11111111-1111-4111-a111-111111111111\r\n".to_owned()),
        ("/strange-id", "x-request-id: strange\r\n".to_owned()),
        ("/own", none()),
        ("/failed", none()),
        ("/long/path/that/is/cut", none()),
    ]
}

/// An id that varies as its length; others as they are.
fn id(text: &str) -> String {
    match [TRACE, SPAN, PARENT].contains(&text) {
        true => text.to_owned(),
        false if text.bytes().all(|byte| byte.is_ascii_hexdigit()) => format!("<{}>", text.len()),
        false => text.to_owned(),
    }
}

/// The digit of a request id that says why the request is sampled.
fn mark(text: &str) -> String {
    text.get(14..15).unwrap_or(text).to_owned()
}

/// What a span says that is the same every time.
fn said(span: &Value) -> (String, BTreeMap<String, String>) {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let mut facts = BTreeMap::new();
    for name in ["kind", "name", "shared"] {
        facts.insert(name.to_owned(), text(&span[name]));
    }
    for name in ["traceId", "id", "parentId"] {
        facts.insert(name.to_owned(), id(&text(&span[name])));
    }
    let ends: Vec<_> =
        span["annotations"].as_array().into_iter().flatten().map(|one| text(&one["value"])).collect();
    facts.insert("annotations".to_owned(), ends.join(" "));
    for (name, value) in span["localEndpoint"].as_object().into_iter().flatten() {
        facts.insert(format!("endpoint {name}"), text(value));
    }
    let tags = span["tags"].as_object();
    for (name, value) in tags.into_iter().flatten() {
        let value = match name.as_str() {
            "guid:x-request-id" => mark(&text(value)),
            // (The port of the host, which is of one run.)
            "upstream_address" => "host".to_owned(),
            "peer.address" => text(value).split(':').next().unwrap_or_default().to_owned(),
            _ => text(value),
        };
        facts.insert(format!("tag {name}"), value);
    }
    let of = tags.and_then(|tags| tags.get("http.url")).map_or_else(|| text(&span["name"]), text);
    (format!("{of} {}", facts["kind"]), facts)
}

type Facts = BTreeMap<String, BTreeMap<String, String>>;

/// Everything that is observable of the requests.
async fn observe(binary: &Binary, listener: &str, rest: &str) -> Result<Facts> {
    let (upstream, collector) = (Upstream::start().await?, Upstream::start().await?);
    collector.script(vec![Reply::raw("HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n"); 100]);
    let clusters = [cluster("up", "up", ""), cluster("collector", "collector", "")];
    let runtime =
        "layered_runtime: {layers: [{name: s, static_layer: {tracing.zipkin.min_flush_spans: 1}}]}\n";
    let rest = format!("node: {{id: me, cluster: mine, locality: {{zone: here}}}}\n{runtime}{rest}");
    let ports = [("up", port(upstream.addr())), ("collector", port(collector.addr()))];
    let yaml = fill(&bootstrap(&[listener.to_owned()], &clusters, &rest), ports);
    let proxy = Proxy::start(binary, &yaml).await?;
    let mut client = Client::connect(proxy.listener("traced")?).await?;
    let mut facts = Facts::new();
    for (path, lines) in requests() {
        upstream.push(match path {
            "/failed" => Reply::raw("HTTP/1.1 503 no\r\ncontent-length: 0\r\n\r\n"),
            _ => Reply::raw(
                "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nx-envoy-decorator-operation: host\r\n\r\nok",
            ),
        });
        let before = upstream.received().len();
        client.send(format!("GET {path} HTTP/1.1\r\nhost: test\r\n{lines}\r\n").as_bytes()).await?;
        let response = client.response("GET", SOON).await?.head;
        let mut seen = BTreeMap::from([("status".to_owned(), response.status()?.to_string())]);
        let operation = field(&response.fields, "x-envoy-decorator-operation");
        seen.insert("answered operation".to_owned(), operation.unwrap_or("-").to_owned());
        if let Some(received) = upstream.received().get(before) {
            for name in [
                "x-b3-traceid",
                "x-b3-spanid",
                "x-b3-parentspanid",
                "x-b3-sampled",
                "b3",
                "traceparent",
                "tracestate",
                "x-envoy-decorator-operation",
            ] {
                if let Some(value) = field(&received.fields, name) {
                    let value: Vec<_> = value.split('-').map(id).collect();
                    seen.insert(name.to_owned(), value.join("-"));
                }
            }
            let id = field(&received.fields, "x-request-id").context("no id")?;
            seen.insert("id".to_owned(), mark(id));
        } else {
            // (The reply that nobody asked for.)
            upstream.script([]);
        }
        facts.insert(format!("request {path}"), seen);
    }
    let spans = eventually("spans of all sampled requests", SOON, async || {
        let spans: Vec<Value> = collector
            .received()
            .iter()
            .filter_map(|report| serde_json::from_slice::<Vec<Value>>(&report.body).ok())
            .flatten()
            .collect();
        let url = |span: &Value| span["tags"]["http.url"].as_str().map(str::to_owned);
        let is_last_there = spans.iter().filter_map(url).any(|url| url.starts_with("http://test/long"));
        let sent = proxy.admin().stat("tracing.zipkin.spans_sent").await.ok()?;
        (is_last_there && usize::try_from(sent).ok()? == spans.len()).then_some(spans)
    })
    .await?;
    // (Reports are calls of their own: the order in which they come is any.)
    let mut spans: Vec<_> = spans.iter().map(said).collect();
    spans.sort();
    for (mut key, said) in spans {
        while facts.contains_key(&key) {
            key.push('+');
        }
        facts.insert(key, said);
    }
    let stats = proxy.admin().stats("http.traced.tracing").await?;
    let counted = stats.into_iter().map(|(name, value)| (name, value.to_string())).collect();
    facts.insert("statistics".to_owned(), counted);
    let report = collector.received().first().cloned().context("no report")?;
    let host = field(&report.fields, "host").unwrap_or_default().to_owned();
    let kind = field(&report.fields, "content-type").unwrap_or_default().to_owned();
    let key = field(&report.fields, "x-key").unwrap_or_default().to_owned();
    facts.insert("report".to_owned(), BTreeMap::from([(report.line, format!("{host} {kind} {key}"))]));
    Ok(facts)
}

async fn compare(listener: &str, rest: &str) -> Result<()> {
    let left = observe(&Binary::envoy()?, listener, rest).await?;
    let right = observe(&Binary::subject()?, listener, rest).await?;
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
async fn spans_of_zipkin_are_those_of_envoy() -> Result<()> {
    let provider = "trace_id_128bit: true\n      shared_span_context: false";
    compare(&listener("traced", TAGS, provider), "").await
}

#[tokio::test]
async fn servers_share_spans_with_their_clients() -> Result<()> {
    let more =
        "max_path_tag_length: 5\n  spawn_upstream_span: true\n  verbose: true\n  operation: \"%REQ(:PATH)%\"";
    compare(&listener("traced", more, "collector_hostname: spans.test"), "").await
}

#[tokio::test]
async fn contexts_of_w3c_stand_in_for_those_of_b3() -> Result<()> {
    let provider = "trace_context_option: USE_B3_WITH_W3C_PROPAGATION\n      trace_id_128bit: true";
    compare(&listener("traced", "", provider), "").await?;
    let provider = "trace_context_option: USE_B3_WITH_W3C_PROPAGATION\n      shared_span_context: false";
    compare(&listener("traced", "spawn_upstream_span: true", provider), "").await
}

#[tokio::test]
async fn a_collector_may_want_headers() -> Result<()> {
    let service = "collector_service: {http_uri: {uri: \"http://spans.test/own/path\", cluster: collector, timeout: 3s}, request_headers_to_add: [{header: {key: x-key, value: secret}}, {header: {key: content-type, value: mine}}]}";
    compare(&listener("traced", "", service), "").await
}

#[tokio::test]
async fn outbound_spans_are_of_clients() -> Result<()> {
    let provider = "trace_id_128bit: true\n      shared_span_context: false";
    let listener = listener("traced", "client_sampling: {value: 100}", provider);
    compare(&format!("{listener}  traffic_direction: OUTBOUND\n"), "").await
}

#[tokio::test]
async fn the_tracer_of_the_bootstrap_serves_who_names_none() -> Result<()> {
    let rest = r#"tracing: {http: {name: envoy.tracers.zipkin, typed_config: {"@type": type.googleapis.com/envoy.config.trace.v3.ZipkinConfig, collector_cluster: collector, collector_endpoint: /api/v2/spans, collector_endpoint_version: HTTP_JSON, trace_id_128bit: true, shared_span_context: false}}}
"#;
    compare(&HttpListener::new("traced", ROUTES).options("tracing: {}").yaml(), rest).await
}
