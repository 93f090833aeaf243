//! Hosts that requests ask for by their address: sessions in cookies and headers, and lists of hosts.
//!
//! Whom a request goes to that gets no host it asks for is chance: what is compared then is that it is another one.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use integration::client::{Client, Response};
use integration::config::{HttpListener, bootstrap, listener_with_filters, tcp_proxy};
use integration::expect::SOON;
use integration::ports::Refusing;
use integration::process::{Binary, Proxy};
use integration::upstream::{Reply, Upstream};

/// What discovery says of the hosts, in their order; the last one always answers 503.
const STATUSES: [&str; 7] = ["UNKNOWN", "HEALTHY", "UNHEALTHY", "DRAINING", "TIMEOUT", "DEGRADED", "HEALTHY"];
const BAD: usize = 6;
/// `override_host_status` of clusters that are asked strictly.
const ACCEPTED: [&str; 8] = [
    "",
    "[]",
    "[UNKNOWN]",
    "[HEALTHY]",
    "[UNHEALTHY, DRAINING]",
    "[TIMEOUT]",
    "[DEGRADED]",
    "[HEALTHY, UNHEALTHY]",
];

const SESSION: &str =
    "\"@type\": type.googleapis.com/envoy.extensions.filters.http.stateful_session.v3.StatefulSession";
const OF_ROUTE: &str = "\"@type\": type.googleapis.com/envoy.extensions.filters.http.stateful_session.v3.StatefulSessionPerRoute";

fn cookie(fields: &str) -> String {
    format!(
        "session_state: {{name: envoy.http.stateful_session.cookie, typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.http.stateful_session.cookie.v3.CookieBasedSessionState, cookie: {{{fields}}}}}}}"
    )
}

fn header(name: &str) -> String {
    format!(
        "session_state: {{name: envoy.http.stateful_session.header, typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.http.stateful_session.header.v3.HeaderBasedSessionState, name: {name}}}}}"
    )
}

fn envelope(name: &str) -> String {
    format!(
        "session_state: {{name: envoy.http.stateful_session.envelope, typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.http.stateful_session.envelope.v3.EnvelopeSessionState, header: {{name: {name}}}}}}}"
    )
}

fn route(path: &str, action: &str, session: &str) -> String {
    format!(
        "- match: {{prefix: {path}}}\n  route: {{{action}}}\n  typed_per_filter_config: {{session: {{{OF_ROUTE}, {session}}}}}\n"
    )
}

fn cluster(name: &str, fields: &str, hosts: &[Upstream]) -> String {
    let mut yaml = format!("- name: {name}\n  connect_timeout: 1s\n");
    if !fields.is_empty() {
        let _ = writeln!(yaml, "  {fields}");
    }
    let _ =
        writeln!(yaml, "  load_assignment:\n    cluster_name: {name}\n    endpoints:\n    - lb_endpoints:");
    for (index, (host, status)) in hosts.iter().zip(STATUSES).enumerate() {
        let port = host.addr().port();
        // (Nobody gets to the last one unless he asks for it.)
        let weight = if index == BAD { 1 } else { 1000 };
        let _ = writeln!(
            yaml,
            "      - {{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}}}, health_status: {status}, load_balancing_weight: {weight}}}"
        );
    }
    yaml
}

const LISTED: &str = "load_balancing_policy: {policies: [{typed_extension_config: {name: o, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.load_balancing_policies.override_host.v3.OverrideHost, override_host_sources: [{header: x-hosts}, {metadata: {key: lb, path: [{key: of}, {key: tlv}]}}, {metadata: {key: lb, path: [{key: tlv}]}}], selected_host_key: {key: told, path: [{key: the}, {key: host}]}, fallback_policy: {policies: [{typed_extension_config: {name: r, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.load_balancing_policies.round_robin.v3.RoundRobin}}}]}}}}]}";

const PROXY_PROTOCOL: &str = "listener_filters: [{name: p, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol, allow_requests_without_proxy_protocol: true, rules: [{tlv_type: 224, on_tlv_present: {metadata_namespace: lb, key: tlv}}]}}]\n";

fn routes() -> String {
    let retry = "retry_policy: {retry_on: 5xx, num_retries: 2}";
    let plain = cookie("name: c");
    let mut routes = String::new();
    for index in 0..ACCEPTED.len() {
        routes += &route(
            &format!("/accepted/{index}"),
            &format!("cluster: a{index}"),
            &format!("stateful_session: {{strict: true, {plain}}}"),
        );
    }
    routes += &route(
        "/p/strict",
        "cluster: all",
        &format!("stateful_session: {{strict: true, stat_prefix: strict, {plain}}}"),
    );
    routes += &route(
        "/p/gone",
        "cluster: all",
        &format!(
            "stateful_session: {{strict: true, stat_prefix: gone, status_on_strict_destination_not_found: 410, {plain}}}"
        ),
    );
    routes += &route(
        "/p/again",
        &format!("cluster: all, {retry}"),
        &format!("stateful_session: {{strict: true, stat_prefix: again, {plain}}}"),
    );
    routes += &route("/p/off", "cluster: all", "disabled: true");
    routes += &route("/p/none", "cluster: all", "stateful_session: {stat_prefix: none, strict: true}");
    routes += &route(
        "/p/header",
        "cluster: all",
        &format!("stateful_session: {{stat_prefix: header, {}}}", header("x-session")),
    );
    for (path, name, strict) in
        [("/p/sealed", "x-sid", false), ("/p/unsealed", "x-none", false), ("/p/firm", "x-sid", true)]
    {
        let prefix = path.trim_start_matches("/p/");
        routes += &route(
            path,
            "cluster: all",
            &format!("stateful_session: {{stat_prefix: {prefix}, strict: {strict}, {}}}", envelope(name)),
        );
    }
    routes += &route(
        "/p/slash",
        "cluster: all",
        &format!("stateful_session: {{stat_prefix: slash, {}}}", cookie("name: c, path: /p/slash/")),
    );
    let _ = writeln!(
        routes,
        "- match: {{prefix: /p/retry}}\n  route: {{cluster: all, {retry}}}\n\
         - match: {{prefix: /p/direct}}\n  direct_response: {{status: 200}}\n\
         - match: {{prefix: /p/empty}}\n  route: {{cluster: empty}}\n\
         - match: {{prefix: /p/refused}}\n  route: {{cluster: refused}}\n\
         - match: {{prefix: /p/listed}}\n  route: {{cluster: listed}}\n\
         - match: {{prefix: /listed/retry}}\n  route: {{cluster: listed, {retry}}}\n\
         - match: {{prefix: /listed/avoid}}\n  route: {{cluster: listed, retry_policy: {{retry_on: 5xx, num_retries: 2, retry_host_predicate: [{{name: p, typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate}}}}], host_selection_retry_max_attempts: 3}}}}\n\
         - match: {{prefix: /listed}}\n  route: {{cluster: listed}}\n\
         - match: {{prefix: /}}\n  route: {{cluster: all}}"
    );
    routes
}

fn configuration(hosts: &[Upstream], refused: u16) -> String {
    let session = format!(
        "- name: session\n  typed_config: {{{SESSION}, stat_prefix: mine, {}}}\n",
        cookie("name: c, path: /p, ttl: 120.5s, attributes: [{name: SameSite, value: Lax}, {name: Secure}]")
    );
    let listeners = [
        HttpListener::new("http", &routes())
            .filters(&session)
            .route_config("response_headers_to_add: [{header: {key: x-told, value: \"%DYNAMIC_METADATA(told:the:host)%\"}}, {header: {key: x-got, value: \"%REQ(x-sid)%\"}}, {header: {key: x-why, value: \"%RESPONSE_FLAGS% %UPSTREAM_REQUEST_ATTEMPT_COUNT%\"}}]\n")
            .listener(PROXY_PROTOCOL)
            .yaml(),
        format!("{}{}", listener_with_filters("tcp", &tcp_proxy("tcp", "cluster: listed\n")), integration::config::indent(PROXY_PROTOCOL, 2)),
    ];
    let mut clusters = vec![
        cluster("all", "", hosts),
        cluster("listed", LISTED, hosts),
        cluster("empty", "", &[]),
        format!(
            "- name: refused\n  connect_timeout: 1s\n  load_assignment: {{cluster_name: r, endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {refused}}}}}}}}}]}}]}}\n"
        ),
    ];
    for (index, accepted) in ACCEPTED.iter().enumerate() {
        let fields = match *accepted {
            "" => String::new(),
            some => format!("common_lb_config: {{override_host_status: {{statuses: {some}}}}}"),
        };
        clusters.push(cluster(&format!("a{index}"), &fields, hosts));
    }
    bootstrap(&listeners, &clusters, "")
}

fn varint(mut number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = (number & 127) as u8;
        number >>= 7;
        if number == 0 {
            bytes.push(low);
            return bytes;
        }
        bytes.push(low | 128);
    }
}

/// A message with an address and a time, and something behind it.
fn message(address: &str, expires: Option<u64>, rest: &[u8]) -> Vec<u8> {
    let mut bytes = vec![10, address.len() as u8];
    bytes.extend(address.as_bytes());
    if let Some(expires) = expires {
        bytes.push(16);
        bytes.extend(varint(expires));
    }
    bytes.extend(rest);
    bytes
}

/// A cookie of a session, with that address.
fn carrying(address: &str) -> String {
    format!("cookie: c={}", STANDARD.encode(message(address, Some(u64::MAX >> 1), b"")))
}

struct Observer<'h> {
    proxy: Proxy,
    hosts: &'h [Upstream],
    seen: BTreeMap<String, String>,
}

impl Observer<'_> {
    fn address(&self, host: usize) -> String {
        self.hosts[host].addr().to_string()
    }

    /// Names of hosts in place of their addresses; those that were not asked for are all the same.
    fn named(&self, text: &str, asked: &[usize]) -> String {
        (0..self.hosts.len()).fold(text.to_owned(), |text, host| {
            let name = if asked.contains(&host) { format!("h{host}") } else { "another".to_owned() };
            text.replace(&self.address(host), &name)
        })
    }

    async fn ask(&mut self, name: &str, path: &str, fields: &[String], asked: &[usize]) -> Result<()> {
        let mut client = Client::connect(self.proxy.listener("http")?).await?;
        let fields: String = fields.iter().fold(String::new(), |all, one| all + one + "\r\n");
        client.send(format!("GET {path} HTTP/1.1\r\nhost: a\r\n{fields}\r\n").as_bytes()).await?;
        let response = client.response("GET", SOON).await.with_context(|| name.to_owned())?;
        let described = self.describe(&response, asked)?;
        ensure!(self.seen.insert(name.to_owned(), described).is_none(), "{name} twice");
        Ok(())
    }

    fn describe(&self, response: &Response, asked: &[usize]) -> Result<String> {
        let mut text = response.head.status()?.to_string();
        let body = String::from_utf8_lossy(&response.body);
        let mut envelope = String::new();
        let host = body.strip_prefix('h').and_then(|host| host.parse::<usize>().ok());
        match host {
            Some(host) => write!(text, " from {}", self.named(&self.address(host), asked))?,
            None => write!(text, " {body}")?,
        }
        for (name, value) in response.head.fields.iter() {
            match name.to_ascii_lowercase().as_str() {
                "set-cookie" => write!(text, " cookie {}", self.named(&told(value)?, asked))?,
                "x-session" => {
                    let decoded = String::from_utf8(STANDARD.decode(value)?)?;
                    write!(text, " session {}", self.named(&decoded, asked))?;
                }
                "x-sid" => {
                    let (address, content) = value.split_once(';').unwrap_or(("", value));
                    let address = String::from_utf8(STANDARD.decode(address)?)?;
                    write!(envelope, " envelope {} {content}", self.named(&address, asked))?;
                }
                "x-told" | "x-why" | "x-got" => write!(text, " {name}={}", self.named(value, asked))?,
                _ => {}
            }
        }
        // (Where it stands among the fields is nothing that counts.)
        Ok(text + &envelope)
    }
}

/// A cookie with its value unwrapped, and its end as seconds from now, to the nearest ten.
fn told(cookie: &str) -> Result<String> {
    let (before, rest) = cookie.split_once('"').context("no value")?;
    let (value, after) = rest.split_once('"').context("no end of the value")?;
    let bytes = STANDARD.decode(value)?;
    let length = usize::from(*bytes.get(1).context("no length")?);
    let (address, rest) = bytes.get(2..).context("short")?.split_at(length);
    let end = rest.iter().skip(1).rev().fold(0u64, |end, byte| end << 7 | u64::from(byte & 127));
    let left = match rest.first() {
        None => "never".to_owned(),
        Some(16) => {
            let left = end.saturating_sub(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs());
            format!("{}", (left + 5) / 10 * 10)
        }
        Some(tag) => format!("tag {tag}"),
    };
    Ok(format!("{before}{} {left}{after}", std::str::from_utf8(address)?))
}

async fn observe(binary: &Binary, hosts: &[Upstream], refused: u16) -> Result<BTreeMap<String, String>> {
    let proxy = Proxy::start(binary, &configuration(hosts, refused)).await?;
    let mut seen = Observer { proxy, hosts, seen: BTreeMap::new() };
    let here = seen.address(1);
    let cookie = |bytes: Vec<u8>| format!("cookie: c={}", STANDARD.encode(bytes));
    let values = [
        ("good", carrying(&here)),
        ("no end", cookie(message(&here, None, b""))),
        ("end 0", cookie(message(&here, Some(0), b""))),
        ("unknown field", cookie(message(&here, None, b"\x18\x01"))),
        ("quoted", format!("cookie: a=1; c=\"{}\"", STANDARD.encode(message(&here, None, b"")))),
        ("older form", cookie(here.clone().into_bytes())),
        ("first of two", format!("{}\r\ncookie: c=x", carrying(&here))),
    ];
    for (name, value) in values {
        seen.ask(name, "/p/x", &[value], &[1]).await?;
    }
    let value = STANDARD.encode(message(&here, None, b"abc"));
    let nothing = [
        ("ended", cookie(message(&here, Some(1), b""))),
        ("cut", cookie(message(&here, None, b"\x18"))),
        ("no padding", format!("cookie: c={}", value.trim_end_matches('='))),
        ("no base64", "cookie: c=!!!".to_owned()),
        ("empty", "cookie: c=".to_owned()),
        ("no address", cookie(message("somewhere", None, b""))),
        ("no port", cookie(message("127.0.0.1", None, b""))),
        ("not there", carrying("127.0.0.1:1")),
        ("other cookie", carrying(&here).replace("c=", "d=")),
        ("none", "x: y".to_owned()),
    ];
    for (name, value) in nothing {
        seen.ask(name, "/p/x", &[value], &[]).await?;
    }
    for path in [
        "/p",
        "/p?x",
        "/p/",
        "/px",
        "/q",
        "/p/slash",
        "/p/slash/x",
        "/p/slash?",
        "/p/none",
        "/p/off",
        "/p/header",
    ] {
        seen.ask(path, path, &[], &[]).await?;
    }
    // (The cookie is not asked for where there are no sessions.)
    for path in ["/p/strict", "/p/gone", "/p/again"] {
        for (name, address) in
            [("good", here.clone()), ("not there", "127.0.0.1:1".to_owned()), ("none", "x".to_owned())]
        {
            seen.ask(&format!("{path} {name}"), path, &[carrying(&address)], &[1]).await?;
        }
        seen.ask(&format!("{path} nothing"), path, &[], &[]).await?;
        let bad = carrying(&seen.address(BAD));
        seen.ask(&format!("{path} bad"), path, &[bad], &[BAD]).await?;
        let unwell = carrying(&seen.address(2));
        seen.ask(&format!("{path} unwell"), path, &[unwell], &[2]).await?;
    }
    for path in ["/p/x", "/p/retry", "/p/direct", "/p/empty", "/p/refused"] {
        let bad = carrying(&seen.address(BAD));
        seen.ask(&format!("{path} bad"), path, &[bad], &[BAD]).await?;
    }
    observe_statuses(&mut seen).await?;
    observe_headers(&mut seen).await?;
    observe_envelopes(&mut seen).await?;
    observe_lists(&mut seen).await?;
    let Observer { proxy, mut seen, .. } = seen;
    for statistics in
        ["stateful_session", "upstream_cx_none_healthy", "upstream_rq_retry", "lb_healthy_panic"]
    {
        let stats = proxy.admin().stats(statistics).await?;
        ensure!(!stats.is_empty());
        seen.extend(stats.into_iter().map(|(name, value)| (name, value.to_string())));
    }
    proxy.stop().await?;
    Ok(seen)
}

/// Hosts of every status, for clusters that accept some of them.
async fn observe_statuses(seen: &mut Observer<'_>) -> Result<()> {
    for (index, accepted) in ACCEPTED.iter().enumerate() {
        let path = format!("/accepted/{index}");
        for (host, status) in STATUSES.iter().enumerate().take(BAD) {
            let value = carrying(&seen.address(host));
            seen.ask(&format!("{accepted} {status}"), &path, &[value], &[host]).await?;
        }
        seen.ask(&format!("{accepted} gone"), &path, &[carrying("1.2.3.4:5")], &[]).await?;
    }
    Ok(())
}

/// Sessions that are carried in a header.
async fn observe_headers(seen: &mut Observer<'_>) -> Result<()> {
    let of_header = |value: &str| format!("x-session: {}", STANDARD.encode(value));
    let (here, other) = (seen.address(1), seen.address(0));
    let twice = format!("{}\r\n{}", of_header(&here), of_header(&other));
    for (name, value) in [("good", of_header(&here)), ("first of two", twice)] {
        seen.ask(&format!("header {name}"), "/p/header", &[value], &[1]).await?;
    }
    let others = [
        ("of a list", format!("{},x", of_header(&here))),
        ("no base64", format!("x-session: {here}")),
        ("not there", of_header("127.0.0.1:1")),
        ("no address", of_header("x")),
    ];
    for (name, value) in others {
        seen.ask(&format!("header {name}"), "/p/header", &[value], &[]).await?;
    }
    Ok(())
}

/// Sessions whose hosts are written on what the hosts themselves say.
async fn observe_envelopes(seen: &mut Observer<'_>) -> Result<()> {
    let (here, unwell) = (STANDARD.encode(seen.address(1)), STANDARD.encode(seen.address(2)));
    let gone = STANDARD.encode("127.0.0.1:1");
    let content = "UV:ZGVm";
    let values = [
        ("good", format!("{here};{content}")),
        ("more", format!("{here};x;{content};UV:YWJj;y")),
        ("unwell", format!("{unwell};{content}")),
        ("gone", format!("{gone};{content}")),
        ("no host", format!(";{content}")),
        ("no base64", format!("!;{content}")),
        ("no address", format!("{};{content}", STANDARD.encode("x"))),
        ("no content", here.clone()),
        ("empty content", format!("{here};UV:")),
        ("content without base64", format!("{here};UV:!")),
        ("a space", format!("{here}; {content}")),
        ("small letters", format!("{here};uv:ZGVm")),
        ("two", format!("{here};{content}\r\nx-sid: {gone};UV:YWJj")),
        ("none", "x".to_owned()),
    ];
    for path in ["/p/sealed", "/p/firm"] {
        for (name, value) in &values {
            let asked = if matches!(*name, "good" | "more" | "two") { &[1][..] } else { &[] };
            seen.ask(&format!("{path} {name}"), path, &[format!("x-sid: {value}")], asked).await?;
        }
        seen.ask(&format!("{path} nothing"), path, &[], &[]).await?;
    }
    let value = format!("x-none: {here};{content}");
    seen.ask("envelope of nothing", "/p/unsealed", &[value], &[1]).await
}

/// Clusters that look for a list of hosts.
async fn observe_lists(seen: &mut Observer<'_>) -> Result<()> {
    let [one, unwell, draining, bad] = [1, 2, 3, BAD].map(|host| seen.address(host));
    let lists = [
        ("one", format!("x-hosts: {one}")),
        ("unwell", format!("x-hosts: {unwell}")),
        ("draining", format!("x-hosts: {draining},{one}")),
        ("spaces", format!("x-hosts: , 1.2.3.4:5 , x,  {one} ,{unwell}")),
        ("first of two", format!("x-hosts: {one}\r\nx-hosts: {unwell}")),
        ("bad", format!("x-hosts: {bad}, {one}, {draining}")),
        ("bad twice", format!("x-hosts: {bad}, {bad}, {one}")),
        ("bad thrice", format!("x-hosts: {bad}, {bad}, {bad}, {one}")),
        ("bad and none", format!("x-hosts: {bad}, {bad}, {bad}")),
    ];
    for (name, value) in lists {
        for path in ["/listed", "/listed/retry", "/listed/avoid"] {
            let list = [value.clone()];
            let asked = if name == "bad and none" { &[BAD][..] } else { &[1, 2, 3, BAD] };
            seen.ask(&format!("{path} {name}"), path, &list, asked).await?;
        }
    }
    for (name, value) in [("none", "x: y"), ("empty", "x-hosts:"), ("gone", "x-hosts: 1.2.3.4:5")] {
        seen.ask(&format!("/listed {name}"), "/listed", &[value.to_owned()], &[]).await?;
    }
    let both = [format!("x-hosts: {one}"), carrying(&draining)];
    seen.ask("listed, not chosen", "/listed", &both, &[1]).await?;
    let both = [format!("x-hosts: {one}"), carrying(&seen.address(0))];
    seen.ask("listed and chosen", "/p/listed", &both, &[0, 1]).await?;
    let both = [format!("x-hosts: {one}"), carrying(&unwell)];
    seen.ask("listed and chosen in vain", "/p/listed", &both, &[1, 2]).await?;
    // (What is known of a connection is not known of its requests.)
    for (listener, asked) in [("tcp", &[1, 2][..]), ("http", &[])] {
        let list = format!("{unwell},{one}");
        let of_connection = of_connection(seen, listener, &list, asked).await?;
        seen.seen.insert(format!("connection {listener}"), of_connection);
    }
    Ok(())
}

/// One request behind a header of the PROXY protocol that lists hosts.
async fn of_connection(seen: &Observer<'_>, listener: &str, list: &str, asked: &[usize]) -> Result<String> {
    let mut client = Client::connect(seen.proxy.listener(listener)?).await?;
    let mut bytes = b"\r\n\r\n\0\r\nQUIT\n\x21\x11".to_vec();
    let length = u8::try_from(12 + 3 + list.len())?;
    bytes.extend([0, length, 127, 0, 0, 1, 127, 0, 0, 1, 0, 1, 0, 2, 224, 0, u8::try_from(list.len())?]);
    bytes.extend(list.as_bytes());
    bytes.extend(b"GET /listed HTTP/1.1\r\nhost: a\r\n\r\n");
    client.send(&bytes).await?;
    let response = client.response("GET", SOON).await?;
    seen.describe(&response, asked)
}

pub async fn compare(reference: &Binary, subject: &Binary) -> Result<()> {
    let mut hosts = Vec::new();
    for number in 0..STATUSES.len() {
        let host = Upstream::start().await?;
        let status = if number == BAD { "503 Service Unavailable" } else { "200 OK" };
        host.answer(Reply::raw(format!(
            "HTTP/1.1 {status}\r\nx-sid: abc\r\ncontent-length: 2\r\n\r\nh{number}"
        )));
        hosts.push(host);
    }
    let refusing = Refusing::new()?;
    let refused = refusing.addr().port();
    let wanted = observe(reference, &hosts, refused).await?;
    let found = observe(subject, &hosts, refused).await?;
    let mut differences = String::new();
    for key in wanted.keys().chain(found.keys().filter(|key| !wanted.contains_key(*key))) {
        let (wanted, found) = (wanted.get(key), found.get(key));
        if wanted != found {
            let _ = writeln!(differences, "{key}: Envoy {wanted:?}, here {found:?}");
        }
    }
    ensure!(differences.is_empty(), "{differences}");
    Ok(())
}
