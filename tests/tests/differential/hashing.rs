//! Which host each of thousands of requests goes to, key by key: consistent hashing and hash policies.

use std::collections::BTreeMap;
use std::fmt::Write;

use anyhow::{Context, Result, ensure};
use integration::client::Client;
use integration::config::{HttpListener, bootstrap, indent, listener_with_filters, tcp_proxy};
use integration::expect::{SOON, eventually};
use integration::process::{Binary, Proxy};
use integration::upstream::{Reply, Upstream};

const HOSTS: usize = 9;
/// Requests that are sent at once, before their responses are read.
const BATCH: usize = 50;

/// How many keys are tried: thousands where tables are compared, some where it is about what is hashed.
fn keys(case: &str) -> usize {
    match case {
        "ring" | "maglev" => 2000,
        _ => 200,
    }
}

/// A way of choosing hosts, with what is asked of it.
struct Case {
    name: &'static str,
    /// Fields of the cluster besides its name and endpoints.
    cluster: &'static str,
    /// Fields of the route besides its cluster.
    route: &'static str,
    /// Endpoints: numbers and fields beside the endpoint itself, by locality.
    localities: &'static [(&'static str, &'static [(usize, &'static str)])],
    /// What request number `N` says besides `x-key: N`.
    request: &'static str,
}

impl Case {
    const fn new(name: &'static str, cluster: &'static str) -> Self {
        Self { name, cluster, route: BY_KEY, localities: EVEN, request: "" }
    }

    const fn with_hosts(
        mut self,
        localities: &'static [(&'static str, &'static [(usize, &'static str)])],
    ) -> Self {
        self.localities = localities;
        self
    }

    const fn with_policy(mut self, route: &'static str, request: &'static str) -> Self {
        (self.route, self.request) = (route, request);
        self
    }
}

const BY_KEY: &str = "hash_policy: [{header: {header_name: x-key}}]";
/// Every response is one to try again for, at a host that did not have the request.
const AGAIN: &str = "hash_policy: [{header: {header_name: x-key}}], retry_policy: {retry_on: retriable-status-codes, retriable_status_codes: [200], num_retries: 2, host_selection_retry_max_attempts: 6, retry_host_predicate: [{name: h, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate}}], retry_back_off: {base_interval: 0.001s}}";
/// The same, at another priority.
const ELSEWHERE: &str = "hash_policy: [{header: {header_name: x-key}}], retry_policy: {retry_on: retriable-status-codes, retriable_status_codes: [200], retry_priority: {name: p, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig, update_frequency: 1}}, retry_back_off: {base_interval: 0.001s}}";
const RING: &str = "lb_policy: RING_HASH";
const MAGLEV: &str = "lb_policy: MAGLEV";
const EVEN: &[(&str, &[(usize, &str)])] =
    &[("", &[(0, ""), (1, ""), (2, ""), (3, ""), (4, ""), (5, ""), (6, ""), (7, ""), (8, "")])];
const UNEVEN: &[(&str, &[(usize, &str)])] = &[(
    "",
    &[
        (4, "load_balancing_weight: 3"),
        (0, "load_balancing_weight: 1"),
        (1, "load_balancing_weight: 2"),
        (2, "load_balancing_weight: 7"),
        (3, "load_balancing_weight: 20"),
    ],
)];
const ZONES: &[(&str, &[(usize, &str)])] = &[
    ("locality: {zone: b}, load_balancing_weight: 3", &[(0, ""), (1, "load_balancing_weight: 2"), (2, "")]),
    ("locality: {zone: a}, load_balancing_weight: 1", &[(3, ""), (4, "health_status: UNHEALTHY")]),
    ("locality: {zone: c}", &[(5, "")]),
];
const FAILING: &[(&str, &[(usize, &str)])] = &[
    (
        "priority: 0",
        &[
            (0, ""),
            (1, "health_status: UNHEALTHY"),
            (2, "health_status: UNHEALTHY"),
            (3, "health_status: DRAINING"),
        ],
    ),
    ("priority: 1", &[(4, ""), (5, "health_status: DEGRADED")]),
];
const PANIC: &[(&str, &[(usize, &str)])] =
    &[("", &[(0, ""), (1, "health_status: UNHEALTHY"), (2, "health_status: UNHEALTHY")])];
const NAMED: &[(&str, &[(usize, &str)])] = &[(
    "",
    &[
        (0, "metadata: {filter_metadata: {envoy.lb: {hash_key: first}}}"),
        (1, "metadata: {filter_metadata: {envoy.lb: {hash_key: second}}}"),
        (2, "metadata: {filter_metadata: {envoy.lb: {hash_key: \"\"}}}"),
        (3, "metadata: {filter_metadata: {envoy.lb: {hash_key: 7}}}"),
    ],
)];

const CASES: &[Case] = &[
    Case::new("ring", RING),
    Case::new("ring-uneven", RING).with_hosts(UNEVEN),
    Case::new("ring-murmur", "lb_policy: RING_HASH\nring_hash_lb_config: {hash_function: MURMUR_HASH_2}"),
    Case::new(
        "ring-small",
        "lb_policy: RING_HASH\nring_hash_lb_config: {minimum_ring_size: 1, maximum_ring_size: 13}",
    )
    .with_hosts(UNEVEN),
    Case::new("ring-large", "lb_policy: RING_HASH\nring_hash_lb_config: {minimum_ring_size: 100000}"),
    Case::new(
        "ring-zones",
        "lb_policy: RING_HASH\ncommon_lb_config: {locality_weighted_lb_config: {}, healthy_panic_threshold: {value: 0}}",
    )
    .with_hosts(ZONES),
    Case::new("ring-unweighted-zones", RING).with_hosts(ZONES),
    Case::new("ring-failing", "lb_policy: RING_HASH\ncommon_lb_config: {healthy_panic_threshold: {value: 0}}")
        .with_hosts(FAILING),
    Case::new("ring-panic", RING).with_hosts(PANIC),
    Case::new("ring-keys", RING).with_hosts(NAMED),
    Case::new(
        "ring-names",
        "type: STRICT_DNS\nlb_policy: RING_HASH\ncommon_lb_config: {consistent_hashing_lb_config: {use_hostname_for_hashing: true}}",
    ),
    Case::new(
        "ring-typed",
        "load_balancing_policy: {policies: [{typed_extension_config: {name: r, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.load_balancing_policies.ring_hash.v3.RingHash, hash_function: MURMUR_HASH_2, minimum_ring_size: 77, locality_weighted_lb_config: {}}}}]}",
    )
    .with_hosts(ZONES),
    Case::new(
        "ring-own-policy",
        "load_balancing_policy: {policies: [{typed_extension_config: {name: r, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.load_balancing_policies.ring_hash.v3.RingHash, consistent_hashing_lb_config: {hash_policy: [{header: {header_name: x-other}}]}}}}]}",
    )
    .with_policy(BY_KEY, "x-other: a{N}\r\n"),
    Case::new("ring-again", RING).with_policy(AGAIN, ""),
    Case::new("ring-elsewhere", RING).with_hosts(FAILING).with_policy(ELSEWHERE, ""),
    Case::new("maglev-again", MAGLEV).with_policy(AGAIN, ""),
    Case::new("maglev", MAGLEV),
    Case::new("maglev-uneven", MAGLEV).with_hosts(UNEVEN),
    Case::new("maglev-small", "lb_policy: MAGLEV\nmaglev_lb_config: {table_size: 11}").with_hosts(UNEVEN),
    Case::new("maglev-zones", "lb_policy: MAGLEV\ncommon_lb_config: {locality_weighted_lb_config: {}}")
        .with_hosts(ZONES),
    Case::new(
        "maglev-failing",
        "lb_policy: MAGLEV\ncommon_lb_config: {healthy_panic_threshold: {value: 0}}",
    )
    .with_hosts(FAILING),
    Case::new("maglev-keys", MAGLEV).with_hosts(NAMED),
    Case::new(
        "maglev-typed",
        "type: STRICT_DNS\nload_balancing_policy: {policies: [{typed_extension_config: {name: m, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.load_balancing_policies.maglev.v3.Maglev, table_size: 10007, consistent_hashing_lb_config: {use_hostname_for_hashing: true}}}}]}",
    ),
    Case::new("rewritten", MAGLEV).with_policy(
        "hash_policy: [{header: {header_name: x-key, regex_rewrite: {pattern: {google_re2: {}, regex: \"^(.*)[0-9]$\"}, substitution: \"v\\\\1\"}}}]",
        "",
    ),
    Case::new("repeated", MAGLEV).with_policy(BY_KEY, "x-key: b{N}\r\nx-key: a{N}\r\n"),
    Case::new("path", MAGLEV)
        .with_policy("prefix_rewrite: /z, hash_policy: [{header: {header_name: \":path\"}}]", ""),
    Case::new("added", MAGLEV).with_policy("hash_policy: [{header: {header_name: x-added}}]", "x-added: {N}\r\n"),
    Case::new("cookie", MAGLEV)
        .with_policy("hash_policy: [{cookie: {name: c, ttl: 10s}}]", "cookie: a=1; c=\"{N}\"\r\n"),
    Case::new("source", MAGLEV).with_policy(
        "hash_policy: [{connection_properties: {source_ip: true}}]",
        "x-forwarded-for: 9.9.{N}\r\n",
    ),
    Case::new("no-source", MAGLEV).with_policy(
        "hash_policy: [{connection_properties: {source_ip: false}}, {header: {header_name: x-key}}]",
        "",
    ),
    Case::new("query", MAGLEV).with_policy("hash_policy: [{query_parameter: {name: q}}]", ""),
    Case::new("several", RING).with_policy(
        "hash_policy: [{header: {header_name: x-key}}, {header: {header_name: x-none}}, {header: {header_name: x-key}}, {query_parameter: {name: q}}]",
        "",
    ),
    Case::new("terminal", RING).with_policy(
        "hash_policy: [{header: {header_name: x-none}, terminal: true}, {header: {header_name: x-key}, terminal: true}, {query_parameter: {name: q}}]",
        "",
    ),
    Case::new("state", MAGLEV).with_policy("hash_policy: [{filter_state: {key: hashable}}]", ""),
    Case::new("state-plain", MAGLEV).with_policy(OF_STATE_PLAIN, ""),
    Case::new("state-none", MAGLEV).with_policy(OF_STATE_NONE, ""),
    Case::new("state-address", MAGLEV).with_policy(OF_STATE_ADDRESS, ""),
    Case::new("state-ip", MAGLEV).with_policy(OF_STATE_IP, ""),
    Case::new("state-cluster", MAGLEV).with_policy(OF_STATE_CLUSTER, ""),
    Case::new("state-bool", MAGLEV).with_policy(OF_STATE_BOOL, ""),
    Case::new("state-hits", MAGLEV).with_policy(OF_STATE_HITS, ""),
    Case::new("state-name", MAGLEV).with_policy(OF_STATE_NAME, ""),
    Case::new("state-several", RING).with_policy(
        "hash_policy: [{filter_state: {key: hashable}, terminal: true}, {header: {header_name: x-key}}]",
        "",
    ),
];

/// Objects in the filter state that a header follows, so that one that has no number shows.
const OF_STATE_PLAIN: &str = "hash_policy: [{filter_state: {key: plain}}, {header: {header_name: x-key}}]";
const OF_STATE_NONE: &str = "hash_policy: [{filter_state: {key: none}}, {header: {header_name: x-key}}]";
const OF_STATE_ADDRESS: &str =
    "hash_policy: [{filter_state: {key: address}}, {header: {header_name: x-key}}]";
const OF_STATE_IP: &str = "hash_policy: [{filter_state: {key: ip}}, {header: {header_name: x-key}}]";
const OF_STATE_CLUSTER: &str =
    "hash_policy: [{filter_state: {key: cluster}}, {header: {header_name: x-key}}]";
const OF_STATE_BOOL: &str = "hash_policy: [{filter_state: {key: bool}}, {header: {header_name: x-key}}]";
const OF_STATE_HITS: &str = "hash_policy: [{filter_state: {key: hits}}, {header: {header_name: x-key}}]";
const OF_STATE_NAME: &str = "hash_policy: [{filter_state: {key: name}}, {header: {header_name: x-key}}]";

/// What is left in the filter state: key, kind, and text.
const OF_REQUESTS: &[(&str, &str, &str)] = &[
    ("hashable", "envoy.hashable_string", "%REQ(x-key)%"),
    ("plain", "envoy.string", "%REQ(x-key)%"),
    ("address", "envoy.network.transport_socket.original_dst_address", "10.0.0.1:80"),
    ("ip", "envoy.network.ip", "10.0.0.1"),
    ("cluster", "envoy.tcp_proxy.cluster", "c"),
    ("bool", "envoy.bool", "true"),
    ("hits", "envoy.ratelimit.hits_addend", "7"),
    ("name", "envoy.network.upstream_server_name", "h.test"),
];
const OF_CONNECTIONS: &[(&str, &str, &str)] =
    &[("hashable", "envoy.hashable_string", "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%")];

/// A filter that leaves objects in the filter state, of requests or of connections.
fn state_filter(kind: &str, when: &str, objects: &[(&str, &str, &str)]) -> String {
    let objects: Vec<String> = objects
        .iter()
        .map(|(key, factory, text)| {
            format!("{{object_key: {key}, factory_key: {factory}, format_string: {{text_format_source: {{inline_string: \"{text}\"}}}}}}")
        })
        .collect();
    format!(
        "- name: state\n  typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.filters.{kind}.set_filter_state.v3.Config, {when}: [{}]}}\n",
        objects.join(", ")
    )
}

fn cluster(name: &str, fields: &str, localities: &[(&str, &[(usize, &str)])], hosts: &[Upstream]) -> String {
    let mut yaml = format!("- name: {name}\n  connect_timeout: 1s\n{}", indent(fields, 2));
    let _ = writeln!(yaml, "  load_assignment:\n    cluster_name: {name}\n    endpoints:");
    for (fields, endpoints) in localities {
        let _ =
            writeln!(yaml, "    - {{{fields}{}lb_endpoints: [", if fields.is_empty() { "" } else { ", " });
        for (number, fields) in *endpoints {
            let port = hosts[*number].addr().port();
            let _ = writeln!(
                yaml,
                "        {{endpoint: {{hostname: h{number}.test, address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}}}, {fields}}},"
            );
        }
        yaml.push_str("      ]}\n");
    }
    yaml
}

fn configuration(hosts: &[Upstream], slow: &[Upstream]) -> String {
    let mut routes = String::new();
    let mut clusters = Vec::new();
    for case in CASES {
        let Case { name, route, .. } = case;
        let added = "request_headers_to_add: [{header: {key: x-added, value: same}, append_action: OVERWRITE_IF_EXISTS_OR_ADD}]";
        let _ = writeln!(
            routes,
            "- match: {{prefix: /{name}/}}\n  route: {{cluster: {name}, {route}}}\n  {added}"
        );
        clusters.push(cluster(name, case.cluster, case.localities, hosts));
    }
    let weights: Vec<String> =
        ["maglev", "ring"].iter().map(|name| format!("{{name: {name}, weight: 50}}")).collect();
    let _ = writeln!(
        routes,
        "- match: {{prefix: /weighted/}}\n  route: {{weighted_clusters: {{clusters: [{}], use_hash_policy: true}}, hash_policy: [{{header: {{header_name: x-key}}}}]}}",
        weights.join(", ")
    );
    let _ = writeln!(
        routes,
        "- match: {{prefix: /made/}}\n  route: {{cluster: maglev, hash_policy: [{{cookie: {{name: made, ttl: 7s, path: /p, attributes: [{{name: SameSite, value: Strict}}, {{name: Secure}}]}}}}]}}\n  response_headers_to_remove: [set-cookie]\n- match: {{prefix: /given/}}\n  route: {{cluster: maglev, hash_policy: [{{cookie: {{name: given, ttl: 0s}}}}]}}\n- match: {{prefix: /spread/}}\n  route: {{cluster: spread, hash_policy: [{{cookie: {{name: given, ttl: 0s}}}}]}}"
    );
    let _ = writeln!(routes, "- match: {{prefix: /bounded/}}\n  route: {{cluster: bounded, {BY_KEY}}}");
    clusters.push(cluster("spread", "", EVEN, hosts));
    clusters.push(cluster(
        "bounded",
        "lb_policy: MAGLEV\ncommon_lb_config: {consistent_hashing_lb_config: {hash_balance_factor: 150}}",
        UNEVEN,
        slow,
    ));
    let http = HttpListener::new("http", &routes);
    let http = http.filters(&state_filter("http", "on_request_headers", OF_REQUESTS));
    let by_source = tcp_proxy("tcp", "cluster: maglev\nhash_policy: [{source_ip: {}}]\n");
    let state = state_filter("network", "on_new_connection", OF_CONNECTIONS);
    let by_state = tcp_proxy("tcp-state", "cluster: ring\nhash_policy: [{filter_state: {key: hashable}}]\n");
    let listeners = [
        http.yaml(),
        listener_with_filters("tcp", &by_source),
        listener_with_filters("tcp-state", &format!("{state}{by_state}")),
    ];
    bootstrap(&listeners, &clusters, "")
}

/// Who answered, and the cookies that came with it.
type Answer = (String, Vec<String>);

async fn ask(client: &mut Client, path: &str, key: &str, fields: &str) -> Result<Answer> {
    client.send(head(path, key, fields).as_bytes()).await?;
    answer(client).await
}

fn head(path: &str, key: &str, fields: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: a\r\nx-key: {key}\r\n{fields}\r\n")
}

async fn answer(client: &mut Client) -> Result<Answer> {
    let response = client.response("GET", SOON).await?;
    let who = match response.head.status()? {
        200 => String::from_utf8_lossy(&response.body).into_owned(),
        status => status.to_string(),
    };
    let cookies = response.head.fields.iter().filter(|(name, _)| name == "set-cookie");
    Ok((who, cookies.map(|(_, value)| value.clone()).collect()))
}

/// Which host each key gets; `request` is what request number `N` says besides.
async fn hosts_of_keys(proxy: &Proxy, name: &str, request: &str) -> Result<Vec<String>> {
    let mut client = Client::connect(proxy.listener("http")?).await?;
    let mut hosts = Vec::new();
    let heads = (0..keys(name)).map(|key| {
        let number = match name {
            "source" => format!("{}.{}", key / 250, key % 250),
            _ => key.to_string(),
        };
        head(&format!("/{name}/{key}?p=1&q=q{key}"), &format!("k{key}"), &request.replace("{N}", &number))
    });
    let heads: Vec<String> = heads.collect();
    for batch in heads.chunks(BATCH) {
        client.send(batch.concat().as_bytes()).await?;
        for _ in batch {
            let (host, cookies) = answer(&mut client).await?;
            ensure!(cookies.is_empty(), "{cookies:?}");
            hosts.push(host);
        }
    }
    Ok(hosts)
}

/// Everything that is observed of one proxy: hosts in order, and numbers.
type Seen = BTreeMap<String, Vec<String>>;

async fn observe(binary: &Binary, hosts: &[Upstream], slow: &[Upstream]) -> Result<Seen> {
    let proxy = Proxy::start(binary, &configuration(hosts, slow)).await?;
    let mut seen = Seen::new();
    for case in CASES {
        let picked = hosts_of_keys(&proxy, case.name, case.request).await.with_context(|| case.name)?;
        seen.insert(case.name.to_owned(), picked);
        let panics = proxy.admin().stat(&format!("cluster.{}.lb_healthy_panic", case.name)).await?;
        seen.insert(format!("{}: panics", case.name), vec![panics.to_string()]);
    }
    for statistics in [r"\.ring_hash_lb\.", r"\.maglev_lb\."] {
        let stats = proxy.admin().stats(statistics).await?;
        ensure!(!stats.is_empty());
        seen.extend(stats.into_iter().map(|(name, value)| (name, vec![value.to_string()])));
    }
    seen.insert("weighted".into(), hosts_of_keys(&proxy, "weighted", "").await?);
    seen.insert("cookies".into(), cookies(&proxy).await?);
    seen.insert("bounded".into(), bounded(&proxy, slow).await?);
    for listener in ["tcp", "tcp-state"] {
        seen.insert(listener.into(), tcp(&proxy, listener).await?);
    }
    proxy.stop().await?;
    Ok(seen)
}

/// What clients are told to keep, with the value left out, which depends on the ports; that it leads where it came from.
async fn cookies(proxy: &Proxy) -> Result<Vec<String>> {
    let mut client = Client::connect(proxy.listener("http")?).await?;
    let mut seen = Vec::new();
    for path in ["/made/", "/given/", "/spread/"] {
        let (host, cookies) = ask(&mut client, path, "k", "").await?;
        seen.push(format!("{path} {}", cookies.len()));
        for cookie in cookies {
            let (name, rest) = cookie.split_once("=\"").context("no value")?;
            let (value, rest) = rest.split_once('"').context("no end of the value")?;
            seen.push(format!("{name} of {} bytes{rest}", value.len()));
            let mut other = Client::connect(proxy.listener("http")?).await?;
            let (again, more) = ask(&mut other, path, "k", &format!("cookie: {name}={value}\r\n")).await?;
            ensure!(again == host && more.is_empty(), "{again} after {host}, {more:?}");
            let (same, _) = ask(&mut client, path, "k", "").await?;
            ensure!(same == host, "{same} after {host} on one connection");
        }
    }
    Ok(seen)
}

/// Where requests with the same key go that are never finished.
async fn bounded(proxy: &Proxy, hosts: &[Upstream]) -> Result<Vec<String>> {
    let mut held = Vec::new();
    let mut picked = Vec::new();
    for _ in 0..20 {
        let before: Vec<usize> = hosts.iter().map(|host| host.received().len()).collect();
        let mut client = Client::connect(proxy.listener("http")?).await?;
        client
            .send(b"POST /bounded/ HTTP/1.1\r\nhost: a\r\nx-key: same\r\ncontent-length: 4\r\n\r\n")
            .await?;
        let at = eventually("the request at a host", SOON, async || {
            hosts.iter().zip(&before).position(|(host, before)| host.received().len() > *before)
        });
        picked.push(at.await?.to_string());
        held.push(client);
    }
    for mut client in held {
        client.send(b"body").await?;
        ensure!(client.response("POST", SOON).await?.head.status()? == 200);
    }
    Ok(picked)
}

async fn tcp(proxy: &Proxy, listener: &str) -> Result<Vec<String>> {
    let mut picked = Vec::new();
    for number in 1..60u8 {
        let from = std::net::IpAddr::from([127, 0, 1, number]);
        let mut client = Client::connect_from(from, proxy.listener(listener)?).await?;
        picked.push(ask(&mut client, "/", "k", "").await?.0);
    }
    Ok(picked)
}

pub async fn compare(reference: &Binary, subject: &Binary) -> Result<()> {
    let mut hosts = Vec::new();
    for number in 0..HOSTS {
        let host = Upstream::start().await?;
        host.answer(Reply::raw(format!("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nh{number}")));
        hosts.push(host);
    }
    let mut slow = Vec::new();
    for _ in 0..5 {
        slow.push(Upstream::start().await?);
    }
    let wanted = observe(reference, &hosts, &slow).await.context("Envoy")?;
    let found = observe(subject, &hosts, &slow).await.context("here")?;
    let mut differences = String::new();
    for (name, wanted) in &wanted {
        let found = found.get(name).map_or(&[][..], Vec::as_slice);
        let differing = wanted.iter().zip(found).filter(|(wanted, found)| wanted != found).count();
        if wanted.as_slice() != found {
            let head = |all: &[String]| all.iter().take(20).cloned().collect::<Vec<_>>().join(" ");
            let _ = writeln!(
                differences,
                "{name}: {differing} of {}: Envoy {}, here {}",
                wanted.len(),
                head(wanted),
                head(found)
            );
        }
    }
    ensure!(differences.is_empty(), "{differences}");
    Ok(())
}
