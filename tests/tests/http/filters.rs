//! The HTTP filters, switched on and off and configured route by route.

use anyhow::{Context, Result, ensure};
use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use integration::client::{Client, H2Client, Response};
use integration::config::{H2_CLUSTER, HttpListener, bootstrap, cluster, fill, indent, port};
use integration::expect::{SOON, eventually};
use integration::http1::field;
use integration::process::{Binary, Proxy};
use integration::upstream::h2::{H2Reply, H2Upstream};
use integration::upstream::{Reply, Upstream};

const MUTATION: &str = "type.googleapis.com/envoy.extensions.filters.http.header_mutation.v3.HeaderMutation";
const PER_ROUTE: &str =
    "type.googleapis.com/envoy.extensions.filters.http.header_mutation.v3.HeaderMutationPerRoute";
const FILTER_CONFIG: &str = "type.googleapis.com/envoy.config.route.v3.FilterConfig";

/// Mutations that add `x-level: <value>` to the request.
fn adds(value: &str) -> String {
    format!("mutations: {{request_mutations: [{{append: {{header: {{key: x-level, value: {value}}}}}}}]}}")
}

/// The filter `name`, which adds `x-level: <value>`; further fields of the list's element and of the filter.
fn mutation(name: &str, value: &str, element: &str, fields: &str) -> String {
    format!(
        "- name: {name}\n{element}  typed_config:\n    \"@type\": {MUTATION}\n    {}\n{fields}",
        adds(value)
    )
}

/// A level's configuration of the filter `name`, which adds `x-level: <value>`.
fn level(name: &str, value: &str) -> String {
    format!("typed_per_filter_config: {{{name}: {{\"@type\": {PER_ROUTE}, {}}}}}\n", adds(value))
}

/// A level's `FilterConfig` of the filter `name`.
fn wrapped(name: &str, fields: &str) -> String {
    format!("typed_per_filter_config: {{{name}: {{\"@type\": {FILTER_CONFIG}, {fields}}}}}\n")
}

fn route(path: &str, extra: &str) -> String {
    format!("- match: {{path: {path}}}\n  route: {{cluster: up}}\n{}", indent(extra, 2))
}

async fn start(listener: &HttpListener) -> Result<(Proxy, Upstream)> {
    let upstream = Upstream::start().await?;
    let yaml = bootstrap(&[listener.yaml()], &[cluster("up", "up", "")], "");
    let yaml = fill(&yaml, [("up", port(upstream.addr()))]);
    Ok((Proxy::start(&Binary::subject()?, &yaml).await?, upstream))
}

async fn ask(proxy: &Proxy, method: &str, path: &str, fields: &str) -> Result<Response> {
    let mut client = Client::connect(proxy.listener("http")?).await?;
    client.send(format!("{method} {path} HTTP/1.1\r\nhost: test\r\n{fields}\r\n").as_bytes()).await?;
    client.response(method, SOON).await
}

async fn get(proxy: &Proxy, path: &str) -> Result<u16> {
    ask(proxy, "GET", path, "").await?.head.status()
}

/// The values of `x-level` that the upstream gets with a request for that path.
async fn levels(proxy: &Proxy, upstream: &Upstream, path: &str) -> Result<Vec<String>> {
    upstream.forget();
    let status = get(proxy, path).await?;
    ensure!(status == 200, "{path}: {status}");
    let received = upstream.received();
    let fields = &received.first().with_context(|| format!("{path} did not reach the upstream"))?.fields;
    Ok(fields.iter().filter(|(name, _)| name == "x-level").map(|(_, value)| value.clone()).collect())
}

#[tokio::test]
async fn filters_are_switched_by_the_list_and_by_the_route() -> Result<()> {
    let filters =
        [mutation("always", "always", "", ""), mutation("asked", "asked", "  disabled: true\n", "")].concat();
    let configured = format!("config: {{\"@type\": {PER_ROUTE}, {}}}", adds("route"));
    let unknown = "config: {\"@type\": type.googleapis.com/envoy.config.core.v3.Metadata}";
    let routes = [
        route("/plain", ""),
        route("/enable", &wrapped("asked", "config: {}")),
        route("/enable-configured", &wrapped("asked", &configured)),
        route("/bare", &level("asked", "route")),
        route("/disable", &wrapped("always", "disabled: true")),
        route("/disable-configured", &wrapped("always", &format!("disabled: true, {configured}"))),
        route("/optional", &wrapped("always", &format!("is_optional: true, {unknown}"))),
        route("/absent", &wrapped("nobody", &format!("is_optional: true, {unknown}"))),
    ]
    .concat();
    let (proxy, upstream) = start(&HttpListener::new("http", &routes).filters(&filters)).await?;
    let expected: [(&str, &[&str]); 8] = [
        ("/plain", &["always"]),
        ("/enable", &["always", "asked"]),
        ("/enable-configured", &["always", "asked", "route"]),
        ("/bare", &["always", "asked", "route"]),
        ("/disable", &[]),
        ("/disable-configured", &[]),
        ("/optional", &["always"]),
        ("/absent", &["always"]),
    ];
    for (path, expected) in expected {
        let seen = levels(&proxy, &upstream, path).await?;
        ensure!(seen == expected, "{path}: {seen:?} instead of {expected:?}");
    }
    Ok(())
}

#[tokio::test]
async fn the_levels_of_a_route_apply_in_order() -> Result<()> {
    let both = |value: &str| {
        let one = |name| format!("{name}: {{\"@type\": {PER_ROUTE}, {}}}", adds(value));
        format!("typed_per_filter_config: {{{}, {}}}\n", one("inner"), one("outer"))
    };
    let filters = [
        mutation("inner", "filter", "", ""),
        mutation("outer", "filter", "", "    most_specific_header_mutations_wins: true\n"),
    ]
    .concat();
    let weighted = format!(
        "- match: {{path: /weighted}}\n{}  route:\n    weighted_clusters:\n      clusters:\n      - name: up\n        weight: 1\n{}",
        indent(&both("route"), 2),
        indent(&both("weight"), 8),
    );
    let routes = [weighted, route("/route", &both("route")), route("/host", "")].concat();
    let host = format!(
        "- name: all\n  domains: [\"*\"]\n{}  routes:\n{}",
        indent(&both("host"), 2),
        indent(&routes, 2)
    );
    let listener =
        HttpListener::with_virtual_hosts("http", &host).route_config(&both("table")).filters(&filters);
    let (proxy, upstream) = start(&listener).await?;
    let expected: [(&str, &[&str]); 3] = [
        ("/weighted", &["weight", "route", "host", "table"]),
        ("/route", &["route", "host", "table"]),
        ("/host", &["host", "table"]),
    ];
    for (path, specific_first) in expected {
        let general_first = specific_first.iter().rev();
        // each filter's own first
        let expected: Vec<&str> = ["filter"]
            .iter()
            .chain(specific_first)
            .chain(&["filter"])
            .chain(general_first)
            .copied()
            .collect();
        let seen = levels(&proxy, &upstream, path).await?;
        ensure!(seen == expected, "{path}: {seen:?} instead of {expected:?}");
    }
    Ok(())
}

/// A health check filter for one path.
fn health_check(path: &str, fields: &str) -> String {
    format!(
        "- name: health{}\n  typed_config:\n    \"@type\": type.googleapis.com/envoy.extensions.filters.http.health_check.v3.HealthCheck\n    headers: [{{name: \":path\", string_match: {{exact: {path}}}}}]\n{}",
        path.replace('/', "-"),
        indent(fields, 4)
    )
}

#[tokio::test]
async fn health_checks_are_answered_here_passed_on_or_remembered() -> Result<()> {
    let filters = [
        health_check("/local", "pass_through_mode: false"),
        health_check(
            "/enough",
            "pass_through_mode: false\ncluster_min_healthy_percentages: {up: {value: 100}}",
        ),
        health_check(
            "/nobody",
            "pass_through_mode: false\ncluster_min_healthy_percentages: {nobody: {value: 1}}",
        ),
        health_check("/passed", "pass_through_mode: true"),
        health_check("/remembered", "pass_through_mode: true\ncache_time: 600s"),
    ]
    .concat();
    let (proxy, upstream) = start(&HttpListener::to_up("http").filters(&filters)).await?;
    let refusal = "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n";
    upstream.script([Reply::raw(refusal), Reply::raw(refusal), Reply::raw(refusal), Reply::ok()]);
    let expected = [
        ("/local", 200, 0),
        ("/enough", 200, 0),
        ("/nobody", 503, 0),
        ("/passed", 404, 1),
        ("/passed", 404, 2),
        ("/remembered", 404, 3),
        // the answer comes from memory: the upstream would say 200 now
        ("/remembered", 404, 3),
        ("/other", 200, 4),
    ];
    for (step, (path, status, requests)) in expected.into_iter().enumerate() {
        let seen = (get(&proxy, path).await?, upstream.received().len());
        ensure!(seen == (status, requests), "step {step}, {path}: {seen:?}");
    }
    let stats = proxy.admin().stats("^http\\.http\\.health_check\\.").await?;
    let stat = |name: &str| stats.get(&format!("http.http.health_check.{name}")).copied().unwrap_or(0);
    let counts = ["request_total", "ok", "failed", "failed_cluster_not_found", "cached_response"].map(stat);
    ensure!(counts == [4, 2, 2, 1, 1], "{stats:?}");

    let answer = proxy.admin().request("POST", "/healthcheck/fail").await?;
    ensure!(answer.status == 200, "{answer:?}");
    for path in ["/local", "/enough", "/passed", "/remembered"] {
        let seen = (get(&proxy, path).await?, upstream.received().len());
        ensure!(seen == (503, 4), "{path} while failing: {seen:?}");
    }
    let other = ask(&proxy, "GET", "/other", "").await?.head;
    ensure!(other.status()? == 200, "{other:?}");
    ensure!(field(&other.fields, "x-envoy-immediate-health-check-fail").is_some(), "{other:?}");
    Ok(())
}

#[tokio::test]
async fn a_remembered_health_check_expires_and_may_be_degraded() -> Result<()> {
    let filters = health_check("/check", "pass_through_mode: true\ncache_time: 1s");
    let (proxy, upstream) = start(&HttpListener::to_up("http").filters(&filters)).await?;
    let reply =
        |line: &str, more: &str| Reply::raw(format!("HTTP/1.1 {line}\r\n{more}content-length: 0\r\n\r\n"));
    upstream.script([
        reply("200 OK", "x-envoy-degraded: true\r\n"),
        reply("404 Not Found", ""),
        reply("200 OK", ""),
    ]);
    let check = async || {
        let head = ask(&proxy, "GET", "/check", "").await?.head;
        let is_degraded = field(&head.fields, "x-envoy-degraded").is_some();
        anyhow::Ok((head.status()?, is_degraded, upstream.received().len()))
    };
    ensure!(check().await? == (200, true, 1), "passed on");
    // How many are answered from memory depends on how fast they are made; each has the first answer, mark included.
    let mut remembered = 0;
    let expired = eventually("the next answer of the upstream", SOON, async || {
        let seen = check().await.ok()?;
        remembered += i64::from(seen.2 == 1);
        (seen.2 == 1 && seen != (200, true, 1) || seen.2 > 1).then_some(seen)
    });
    let expired = expired.await?;
    ensure!(expired == (404, false, 2), "{expired:?} after {remembered}");
    let last = eventually("the answer after it", SOON, async || {
        let seen = check().await.ok()?;
        remembered += i64::from(seen.2 == 2);
        (seen.2 > 2).then_some(seen)
    });
    let last = last.await?;
    ensure!(last == (200, false, 3) && remembered > 0, "{last:?} after {remembered}");
    let cached = proxy.admin().stat("http.http.health_check.cached_response").await?;
    ensure!(cached == remembered, "{cached} of {remembered}");
    ensure!(proxy.admin().stat("http.http.health_check.degraded").await? > 0);
    Ok(())
}

const CORS: &str = r#"
- name: envoy.filters.http.cors
  typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.cors.v3.Cors}
"#;

/// A route's CORS policy for `https://good.example`.
fn policy(fields: &str) -> String {
    format!(
        "typed_per_filter_config:\n  envoy.filters.http.cors:\n    \"@type\": type.googleapis.com/envoy.extensions.filters.http.cors.v3.CorsPolicy\n    allow_origin_string_match: [{{exact: \"https://good.example\"}}]\n{}",
        indent(fields, 4)
    )
}

#[tokio::test]
async fn preflights_are_answered_for_origins_that_are_allowed() -> Result<()> {
    let full = "allow_methods: \"GET, PUT\"\nallow_headers: x-a\nexpose_headers: x-b\nmax_age: \"60\"\nallow_credentials: true";
    let routes = [
        route("/full", &policy(full)),
        route("/strict", &policy("forward_not_matching_preflights: false")),
        route("/none", ""),
    ]
    .concat();
    let (proxy, upstream) = start(&HttpListener::new("http", &routes).filters(CORS)).await?;
    let preflight =
        |origin: &str| format!("origin: https://{origin}.example\r\naccess-control-request-method: PUT\r\n");
    let good = ask(&proxy, "OPTIONS", "/full", &preflight("good")).await?.head;
    ensure!(good.status()? == 200 && upstream.received().is_empty(), "{good:?}");
    for (name, value) in [
        ("access-control-allow-origin", "https://good.example"),
        ("access-control-allow-methods", "GET, PUT"),
        ("access-control-allow-headers", "x-a"),
        ("access-control-max-age", "60"),
        ("access-control-allow-credentials", "true"),
    ] {
        ensure!(field(&good.fields, name) == Some(value), "{name}: {good:?}");
    }
    let request = ask(&proxy, "GET", "/full", "origin: https://good.example\r\n").await?.head;
    ensure!(
        field(&request.fields, "access-control-allow-origin") == Some("https://good.example"),
        "{request:?}"
    );
    ensure!(field(&request.fields, "access-control-expose-headers") == Some("x-b"), "{request:?}");
    // what reaches the upstream, and gets no mark
    let expected = [("/full", "evil", 2), ("/strict", "evil", 2), ("/none", "good", 3)];
    for (path, origin, requests) in expected {
        let seen = ask(&proxy, "OPTIONS", path, &preflight(origin)).await?.head;
        ensure!(seen.status()? == 200, "{path}: {seen:?}");
        ensure!(field(&seen.fields, "access-control-allow-origin").is_none(), "{path}: {seen:?}");
        ensure!(upstream.received().len() == requests, "{path}: {} requests", upstream.received().len());
    }
    let stats = proxy.admin().stats("^http\\.http\\.cors\\.").await?;
    let counts = ["origin_valid", "origin_invalid"].map(|name| stats.get(&format!("http.http.cors.{name}")));
    ensure!(counts == [Some(&2), Some(&2)], "{stats:?}");
    Ok(())
}

const GRPC_STATS: &str = r#"
- name: envoy.filters.http.grpc_stats
  typed_config:
    "@type": type.googleapis.com/envoy.extensions.filters.http.grpc_stats.v3.FilterConfig
    individual_method_stats_allowlist: {services: [{name: chat.Room, method_names: [Talk]}]}
"#;

#[tokio::test]
async fn calls_and_messages_are_counted_by_method() -> Result<()> {
    let upstream = H2Upstream::start().await?;
    let listener = HttpListener::to_up("http").filters(GRPC_STATS).yaml();
    let yaml = bootstrap(&[listener], &[cluster("up", "up", H2_CLUSTER)], "");
    let yaml = fill(&yaml, [("up", port(upstream.addr()))]);
    let proxy = Proxy::start(&Binary::subject()?, &yaml).await?;
    // three messages there: two empty ones and one of a byte; one back
    let body = Bytes::from_static(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, b'x']);
    let grpc = |body: &str| H2Reply::new(200, body).field("content-type", "application/grpc");
    let client = H2Client::connect(proxy.listener("http")?).await?;
    let calls = [
        ("chat.Room/Talk", "application/grpc", grpc("\0\0\0\0\0").trailer("grpc-status", "0")),
        ("chat.Room/Talk", "application/grpc", grpc("").field("grpc-status", "5")),
        ("chat.Room/Leave", "application/grpc", grpc("\0\0\0\0\0").trailer("grpc-status", "0")),
        ("chat.Room/Talk", "text/plain", H2Reply::new(200, "no call")),
    ];
    for (path, kind, reply) in calls {
        upstream.script([reply]);
        let request = http::Request::post(format!("http://test/{path}")).header("content-type", kind);
        let response = client.request(request.body(body.clone())?, None).await?;
        ensure!(response.status == 200, "{path}: {response:?}");
    }
    let expected = [
        ("chat.Room.Talk.0", 1),
        ("chat.Room.Talk.5", 1),
        ("chat.Room.Talk.success", 1),
        ("chat.Room.Talk.failure", 1),
        ("chat.Room.Talk.total", 2),
        ("chat.Room.Talk.request_message_count", 6),
        ("chat.Room.Talk.response_message_count", 1),
        ("0", 1),
        ("success", 1),
        ("total", 1),
        ("request_message_count", 3),
        ("response_message_count", 1),
    ];
    let expected = expected.map(|(name, value)| (format!("cluster.up.grpc.{name}"), value));
    let mut last = String::new();
    eventually("the counters", SOON, async || {
        let stats = proxy.admin().stats("^cluster\\.up\\.grpc\\.").await.ok()?;
        last = format!("{stats:?}");
        expected.iter().all(|(name, value)| stats.get(name) == Some(value)).then_some(())
    })
    .await
    .with_context(|| last)
}

/// The policy is evaluated and counted, and changes nothing.
#[tokio::test]
async fn a_policy_in_the_shadow_only_counts() -> Result<()> {
    let share = |field: &str, percent: u32| {
        format!(
            "{field}: {{default_value: {{numerator: {percent}, denominator: HUNDRED}}, runtime_key: {field}}}\n"
        )
    };
    let routes = [
        route("/shadow", &policy(&format!("{}{}", share("filter_enabled", 0), share("shadow_enabled", 100)))),
        route("/off", &policy(&format!("{}{}", share("filter_enabled", 0), share("shadow_enabled", 0)))),
        route("/on", &policy(&format!("{}{}", share("filter_enabled", 100), share("shadow_enabled", 100)))),
    ]
    .concat();
    let (proxy, upstream) = start(&HttpListener::new("http", &routes).filters(CORS)).await?;
    let counts = async || {
        let stats = proxy.admin().stats("^http\\.http\\.cors\\.").await?;
        let count = |name: &str| stats.get(&format!("http.http.cors.{name}")).copied().unwrap_or(0);
        anyhow::Ok((count("origin_valid"), count("origin_invalid")))
    };
    // (whether a response is marked, requests that reached the upstream, valid and invalid origins so far)
    for (method, path, origin, expected) in [
        ("GET", "/shadow", "good", (false, 1, (1, 0))),
        ("GET", "/shadow", "evil", (false, 2, (1, 1))),
        ("OPTIONS", "/shadow", "good", (false, 3, (2, 1))),
        ("GET", "/off", "good", (false, 4, (2, 1))),
        ("OPTIONS", "/off", "evil", (false, 5, (2, 1))),
        ("GET", "/on", "good", (true, 6, (3, 1))),
        ("OPTIONS", "/on", "good", (true, 6, (4, 1))),
    ] {
        let fields = format!("origin: https://{origin}.example\r\naccess-control-request-method: PUT\r\n");
        let head = ask(&proxy, method, path, &fields).await?.head;
        let is_marked = field(&head.fields, "access-control-allow-origin").is_some();
        let seen = (is_marked, upstream.received().len(), counts().await?);
        ensure!(head.status()? == 200 && seen == expected, "{method} {path} {origin}: {seen:?}");
    }
    Ok(())
}

/// `raw_value` of a header: these bytes, whatever they are; a command in them is none.
#[tokio::test]
async fn values_as_bytes_are_sent_as_they_are() -> Result<()> {
    const TEXT: (&str, &[u8]) = ("JVBST1RPQ09MJSByYXc=", b"%PROTOCOL% raw");
    const BYTES: (&str, &[u8]) = ("6Qn/", b"\xe9\t\xff");
    let added = |name: &str| {
        [("text", TEXT.0), ("bytes", BYTES.0)]
            .map(|(kind, raw)| format!("{{header: {{key: {name}-{kind}, raw_value: {raw}}}}}"))
    };
    let route_adds = format!("[{}]", added("x-route").join(", "));
    let filter_adds =
        format!("[{}]", added("x-filter").map(|header| format!("{{append: {header}}}")).join(", "));
    let filter = format!(
        "- name: mutation\n  typed_config:\n    \"@type\": {MUTATION}\n    \
         mutations: {{request_mutations: {filter_adds}, response_mutations: {filter_adds}}}\n"
    );
    let routes =
        route("/", &format!("request_headers_to_add: {route_adds}\nresponse_headers_to_add: {route_adds}\n"));
    let (proxy, upstream) = start(&HttpListener::new("http", &routes).filters(&filter)).await?;
    let mut client = Client::connect(proxy.listener("http")?).await?;
    client.send(b"GET / HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n").await?;
    let (response, _) = client.rest(SOON).await;
    let received = upstream.received();
    let fields = &received.first().context("nothing reached the upstream")?.fields;
    for level in ["x-route", "x-filter"] {
        for (kind, value) in [("text", TEXT.1), ("bytes", BYTES.1)] {
            let name = format!("{level}-{kind}");
            let line = [name.as_bytes(), b": ", value, b"\r\n"].concat();
            let there = response.windows(line.len()).any(|window| window == line);
            ensure!(there, "no {name} in {:?}", String::from_utf8_lossy(&response));
            // The upstream of the tests shows octets that are no UTF-8 as U+FFFD.
            ensure!(field(fields, &name) == Some(&*String::from_utf8_lossy(value)), "{name} in {fields:?}");
        }
    }
    proxy.stop().await
}

/// Keys that are fetched before anybody needs them, again after a failure and before they are too old.
#[tokio::test]
async fn keys_are_fetched_ahead() -> Result<()> {
    const SECRET: &[u8] = b"a secret that nobody knows";
    let base64 = |octets: &[u8]| URL_SAFE_NO_PAD.encode(octets);
    let set = format!("{{\"keys\": [{{\"kty\": \"oct\", \"k\": \"{}\"}}]}}", base64(SECRET));
    let set = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{set}", set.len());
    let signed = format!("{}.{}", base64(br#"{"alg":"HS256"}"#), base64(br#"{"iss":"i"}"#));
    let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, SECRET), signed.as_bytes());
    let token = format!("{signed}.{}", base64(signature.as_ref()));

    let keys = Upstream::start().await?;
    keys.script([
        Reply::raw("HTTP/1.1 503 busy\r\ncontent-length: 0\r\n\r\n"),
        Reply::raw(&set),
        Reply::raw(&set),
        Reply::raw("HTTP/1.1 503 busy\r\ncontent-length: 0\r\n\r\n"),
    ]);
    let host = Upstream::start().await?;
    let filter = "- name: jwt
  typed_config:
    \"@type\": type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication
    providers:
      p:
        issuer: i
        remote_jwks:
          http_uri: {uri: \"http://keys/set\", cluster: keys, timeout: 5s}
          cache_duration: 1s
          async_fetch: {failed_refetch_duration: 0.01s}
    rules: [{match: {prefix: /}, requires: {provider_name: p}}]
";
    let clusters = [cluster("up", "up", ""), cluster("keys", "keys", "")];
    let yaml = bootstrap(&[HttpListener::to_up("http").filters(filter).yaml()], &clusters, "");
    let yaml = fill(&yaml, [("up", port(host.addr())), ("keys", port(keys.addr()))]);
    let proxy = Proxy::start(&Binary::subject()?, &yaml).await?;
    eventually("keys fetched thrice", SOON, async || (keys.received().len() >= 3).then_some(())).await?;
    let found = eventually("keys that are there", SOON, async || {
        let stats = proxy.admin().stats("jwt_authn").await.ok()?;
        (stats.get("http.http.jwt_authn.jwks_fetch_success") >= Some(&2)).then_some(stats)
    })
    .await?;
    ensure!(found.get("http.http.jwt_authn.jwks_fetch_failed") >= Some(&1), "{found:?}");
    let authorized = format!("authorization: Bearer {token}\r\n");
    ensure!(ask(&proxy, "GET", "/", &authorized).await?.head.status()? == 200);
    ensure!(ask(&proxy, "GET", "/", "").await?.head.status()? == 401);
    proxy.stop().await
}
