//! Subsets of hosts: who gets which requests, and what statistics say of it.

use std::collections::BTreeMap;
use std::fmt::Write;

use anyhow::{Context, Result, ensure};
use integration::client::Client;
use integration::config::{HttpListener, bootstrap, indent, listener_with_filters, tcp_proxy};
use integration::expect::{SOON, eventually};
use integration::process::{Binary, Proxy};
use integration::upstream::{Reply, Upstream};

const HOSTS: usize = 6;
/// A multiple of the number of hosts in every subset, so that turns are even.
const REQUESTS: usize = 60;

struct Case {
    name: &'static str,
    /// Fields of the cluster besides its name and endpoints.
    cluster: &'static str,
    /// Fields of each locality, and of its hosts.
    localities: &'static [(&'static str, &'static [&'static str])],
    /// What requests want.
    wanted: &'static [&'static str],
}

const LABELLED: &[(&str, &[&str])] = &[("", &["v: a, s: x", "v: a, s: y", "v: b, s: x", "v: b", "w: 1", ""])];
const LISTS: &[(&str, &[&str])] =
    &[("", &["v: [a, b], s: x", "v: [b, c], s: [x, y]", "v: {a: 1}", "v: 1", "v: null", "v: true"])];
const ZONES: &[(&str, &[&str])] = &[
    ("locality: {zone: a}, load_balancing_weight: 12", &["v: a", "v: b", "v: b"]),
    ("locality: {zone: b}, load_balancing_weight: 12", &["v: a", "v: a", "v: b"]),
];
const DOWN: &[(&str, &[&str])] = &[
    ("priority: 0", &["v: a}}, health_status: UNHEALTHY, x: {x: {", "v: b"]),
    ("priority: 1", &["v: a", "v: c}}, health_status: UNHEALTHY, x: {x: {"]),
];
const PLAIN: &[&str] =
    &["", "v: a", "v: b", "v: c", "s: x", "v: a, s: x", "v: b, s: y", "v: a, s: x, t: 1", "w: 1", "w: \"1\""];

const CASES: &[Case] = &[
    Case {
        name: "nobody",
        cluster: "lb_subset_config: {subset_selectors: [{keys: [v]}, {keys: [s, v]}, {keys: [w]}]}",
        localities: LABELLED,
        wanted: PLAIN,
    },
    Case {
        name: "any",
        cluster: "lb_subset_config: {fallback_policy: ANY_ENDPOINT, subset_selectors: [{keys: [v]}]}",
        localities: LABELLED,
        wanted: PLAIN,
    },
    Case {
        name: "default",
        cluster: "lb_subset_config: {fallback_policy: DEFAULT_SUBSET, default_subset: {s: x}, subset_selectors: [{keys: [v]}]}",
        localities: LABELLED,
        wanted: PLAIN,
    },
    Case {
        name: "default-of-none",
        cluster: "lb_subset_config: {fallback_policy: DEFAULT_SUBSET, default_subset: {s: q}, panic_mode_any: true, subset_selectors: [{keys: [v]}]}",
        localities: LABELLED,
        wanted: PLAIN,
    },
    Case {
        name: "selectors",
        cluster: "lb_subset_config: {fallback_policy: DEFAULT_SUBSET, default_subset: {v: b}, subset_selectors: [{keys: [v], fallback_policy: ANY_ENDPOINT}, {keys: [s, v], fallback_policy: KEYS_SUBSET, fallback_keys_subset: [s]}, {keys: [s], fallback_policy: NO_FALLBACK}, {keys: [w], fallback_policy: DEFAULT_SUBSET}, {keys: [t], fallback_policy: NO_FALLBACK}]}",
        localities: LABELLED,
        wanted: &["v: a", "v: z", "s: x", "s: z", "s: x, v: z", "s: z, v: z", "w: 1", "w: 2", "t: 1", "q: 1"],
    },
    Case {
        name: "one-host",
        cluster: "lb_subset_config: {subset_selectors: [{keys: [v], single_host_per_subset: true}, {keys: [s], single_host_per_subset: true}]}",
        localities: LABELLED,
        wanted: PLAIN,
    },
    Case {
        name: "one-host-down",
        cluster: "common_lb_config: {healthy_panic_threshold: {value: 0}}\nlb_subset_config: {subset_selectors: [{keys: [v], single_host_per_subset: true}]}",
        localities: DOWN,
        wanted: PLAIN,
    },
    Case {
        name: "lists",
        cluster: "lb_subset_config: {list_as_any: true, fallback_policy: DEFAULT_SUBSET, default_subset: {v: c}, subset_selectors: [{keys: [v]}, {keys: [v, s]}]}",
        localities: LISTS,
        wanted: &[
            "v: a",
            "v: b",
            "v: b, s: x",
            "v: c, s: y",
            "v: [a, b]",
            "v: {a: 1}",
            "v: 1.0",
            "v: null",
            "v: true",
            "v: \"true\"",
        ],
    },
    Case {
        name: "no-lists",
        cluster: "lb_subset_config: {fallback_policy: DEFAULT_SUBSET, default_subset: {v: [b, c]}, subset_selectors: [{keys: [v]}]}",
        localities: LISTS,
        wanted: &["v: a", "v: [a, b]", "v: {a: 1}"],
    },
    Case {
        name: "in-turn",
        cluster: "lb_subset_config: {metadata_fallback_policy: FALLBACK_LIST, subset_selectors: [{keys: [v]}, {keys: [v, s]}]}",
        localities: LABELLED,
        wanted: &[
            "v: a, fallback_list: [{v: q}, {s: x}, {v: b}]",
            "fallback_list: [{v: q}, {v: b}]",
            "v: a, fallback_list: []",
            "v: a, fallback_list: 1",
            "v: a, fallback_list: [1]",
            "v: q, fallback_list: [{s: x}]",
        ],
    },
    Case {
        name: "not-in-turn",
        cluster: "lb_subset_config: {subset_selectors: [{keys: [v]}]}",
        localities: LABELLED,
        wanted: &["v: a, fallback_list: [{v: b}]"],
    },
    Case {
        name: "zones",
        cluster: "common_lb_config: {locality_weighted_lb_config: {}}\nlb_subset_config: {subset_selectors: [{keys: [v]}]}",
        localities: ZONES,
        wanted: &["v: a", "v: b"],
    },
    Case {
        name: "zones-weighted",
        cluster: "common_lb_config: {locality_weighted_lb_config: {}}\nlb_subset_config: {locality_weight_aware: true, fallback_policy: ANY_ENDPOINT, subset_selectors: [{keys: [v]}]}",
        localities: ZONES,
        wanted: &["v: a", "v: b", ""],
    },
    Case {
        name: "zones-scaled",
        cluster: "common_lb_config: {locality_weighted_lb_config: {}}\nlb_subset_config: {locality_weight_aware: true, scale_locality_weight: true, subset_selectors: [{keys: [v]}]}",
        localities: ZONES,
        wanted: &["v: a", "v: b"],
    },
    Case {
        name: "down",
        cluster: "common_lb_config: {healthy_panic_threshold: {value: 0}}\nlb_subset_config: {fallback_policy: ANY_ENDPOINT, subset_selectors: [{keys: [v]}]}",
        localities: DOWN,
        wanted: &["v: a", "v: b", "v: c"],
    },
    Case {
        name: "panic",
        cluster: "lb_subset_config: {fallback_policy: ANY_ENDPOINT, subset_selectors: [{keys: [v]}]}",
        localities: DOWN,
        wanted: &["v: c", "v: b"],
    },
    Case {
        name: "maglev",
        cluster: "lb_policy: MAGLEV\nlb_subset_config: {fallback_policy: ANY_ENDPOINT, subset_selectors: [{keys: [v]}]}",
        localities: LABELLED,
        wanted: &["v: a", "v: z"],
    },
    Case {
        name: "typed",
        cluster: "load_balancing_policy: {policies: [{typed_extension_config: {name: s, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.load_balancing_policies.subset.v3.Subset, allow_redundant_keys: true, fallback_policy: DEFAULT_SUBSET, default_subset: {v: b}, subset_selectors: [{keys: [v, s]}, {keys: [v]}], subset_lb_policy: {policies: [{typed_extension_config: {name: r, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.load_balancing_policies.round_robin.v3.RoundRobin}}}]}}}}]}",
        localities: LABELLED,
        wanted: PLAIN,
    },
];

fn cluster(case: &Case, hosts: &[Upstream]) -> String {
    let Case { name, cluster, localities, .. } = case;
    let mut yaml = format!("- name: {name}\n  connect_timeout: 1s\n{}", indent(cluster, 2));
    let _ = writeln!(yaml, "  load_assignment:\n    cluster_name: {name}\n    endpoints:");
    let mut hosts = hosts.iter();
    for (fields, endpoints) in *localities {
        let _ =
            writeln!(yaml, "    - {{{fields}{}lb_endpoints: [", if fields.is_empty() { "" } else { ", " });
        for (labels, host) in endpoints.iter().zip(hosts.by_ref()) {
            // (Further fields of the endpoint come behind the braces.)
            let (labels, more) = labels.split_once("}}, ").map_or((*labels, ""), |(labels, rest)| {
                (labels, rest.split(", x:").next().unwrap_or_default())
            });
            let port = host.addr().port();
            let _ = writeln!(
                yaml,
                "        {{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}}}, metadata: {{filter_metadata: {{envoy.lb: {{{labels}}}}}}}, {more}}},"
            );
        }
        yaml.push_str("      ]}\n");
    }
    yaml
}

fn wanting(labels: &str) -> String {
    format!("metadata_match: {{filter_metadata: {{envoy.lb: {{{labels}}}}}}}")
}

const PROXY_PROTOCOL: &str = "listener_filters: [{name: p, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol, allow_requests_without_proxy_protocol: true, rules: [{tlv_type: 224, on_tlv_present: {metadata_namespace: envoy.lb, key: v}}]}}]\n";

fn configuration(hosts: &[Upstream]) -> String {
    let mut routes = String::new();
    let mut clusters = Vec::new();
    for case in CASES {
        let name = case.name;
        for (index, labels) in case.wanted.iter().enumerate() {
            let _ = writeln!(
                routes,
                "- match: {{path: /{name}/{index}}}\n  route: {{cluster: {name}, {}, hash_policy: [{{header: {{header_name: x-key}}}}]}}",
                wanting(labels)
            );
        }
        clusters.push(cluster(case, hosts));
    }
    let _ = writeln!(
        routes,
        "- match: {{path: /none}}\n  route: {{cluster: any}}\n\
         - match: {{path: /elsewhere}}\n  route: {{cluster: any, metadata_match: {{filter_metadata: {{other: {{v: a}}}}}}}}\n\
         - match: {{path: /weighted}}\n  route: {{{}, weighted_clusters: {{clusters: [{{name: nobody, weight: 1, {}}}]}}}}\n\
         - match: {{path: /weighted/none}}\n  route: {{{}, weighted_clusters: {{clusters: [{{name: nobody, weight: 1}}]}}}}\n\
         - match: {{path: /connection}}\n  route: {{cluster: nobody, {}}}",
        wanting("v: b, s: x"),
        wanting("v: a"),
        wanting("v: b"),
        wanting("v: b, s: x"),
    );
    let tcp = |name: &str, fields: &str| listener_with_filters(name, &tcp_proxy(name, fields));
    let weighted = format!(
        "{}\nweighted_clusters: {{clusters: [{{name: nobody, weight: 1, {}}}]}}\n",
        wanting("v: b, s: x"),
        wanting("v: a")
    );
    let listeners = [
        HttpListener::new("http", &routes).listener(PROXY_PROTOCOL).yaml(),
        tcp("tcp", &format!("cluster: nobody\n{}\n", wanting("v: b, s: x"))),
        tcp("tcp-weighted", &weighted),
    ];
    bootstrap(&listeners, &clusters, "")
}

async fn who(client: &mut Client) -> Result<String> {
    let response = client.response("GET", SOON).await?;
    Ok(match response.head.status()? {
        200 => String::from_utf8_lossy(&response.body).into_owned(),
        status => status.to_string(),
    })
}

/// How often each host answered.
async fn counts(proxy: &Proxy, path: &str) -> Result<String> {
    let mut client = Client::connect(proxy.listener("http")?).await?;
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for key in 0..REQUESTS {
        client.send(format!("GET {path} HTTP/1.1\r\nhost: a\r\nx-key: {key}\r\n\r\n").as_bytes()).await?;
        *counts.entry(who(&mut client).await?).or_default() += 1;
    }
    Ok(format!("{counts:?}"))
}

/// One request behind a header of the PROXY protocol that labels the connection.
async fn of_connection(proxy: &Proxy, label: &str) -> Result<String> {
    let mut client = Client::connect(proxy.listener("http")?).await?;
    let mut bytes = b"\r\n\r\n\0\r\nQUIT\n\x21\x11".to_vec();
    let length = u8::try_from(12 + 3 + label.len())?;
    bytes.extend([0, length, 127, 0, 0, 1, 127, 0, 0, 1, 0, 1, 0, 2, 224, 0, u8::try_from(label.len())?]);
    bytes.extend(label.as_bytes());
    bytes.extend(b"GET /connection HTTP/1.1\r\nhost: a\r\n\r\n");
    client.send(&bytes).await?;
    who(&mut client).await
}

async fn of_tcp(proxy: &Proxy, listener: &str) -> Result<String> {
    let mut client = Client::connect(proxy.listener(listener)?).await?;
    client.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await?;
    who(&mut client).await
}

/// Everything that is observed of one proxy.
async fn observe(binary: &Binary, hosts: &[Upstream]) -> Result<BTreeMap<String, String>> {
    let proxy = Proxy::start(binary, &configuration(hosts)).await?;
    let mut seen = BTreeMap::new();
    for case in CASES {
        for (index, labels) in case.wanted.iter().enumerate() {
            let path = format!("/{}/{index}", case.name);
            let counts = counts(&proxy, &path).await.with_context(|| path.clone())?;
            seen.insert(format!("{} {{{labels}}}", case.name), counts);
        }
    }
    for path in ["/none", "/elsewhere", "/weighted", "/weighted/none"] {
        seen.insert(path.to_owned(), counts(&proxy, path).await?);
    }
    for label in ["a", "b", "z"] {
        seen.insert(format!("connection {label}"), of_connection(&proxy, label).await?);
    }
    for listener in ["tcp", "tcp-weighted"] {
        seen.insert(listener.to_owned(), of_tcp(&proxy, listener).await?);
    }
    for statistics in ["lb_subsets_", "lb_healthy_panic", "upstream_cx_none_healthy"] {
        let stats = proxy.admin().stats(statistics).await?;
        ensure!(!stats.is_empty());
        seen.extend(stats.into_iter().map(|(name, value)| (name, value.to_string())));
    }
    proxy.stop().await?;
    Ok(seen)
}

/// Who answers requests for each kind of host while hosts come, go and are labelled anew, and what is counted.
async fn observe_changes(binary: &Binary, hosts: &[Upstream]) -> Result<Vec<String>> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("eds.yaml");
    let put = |labels: &[&str], version: usize| -> Result<()> {
        let mut text = format!(
            "version_info: \"{version}\"\nresources:\n- \"@type\": type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment\n  cluster_name: c\n  endpoints:\n  - lb_endpoints:\n"
        );
        for (labels, host) in labels.iter().zip(hosts) {
            let _ = writeln!(
                text,
                "    - {{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {}}}}}}}, metadata: {{filter_metadata: {{envoy.lb: {{{labels}}}}}}}}}",
                host.addr().port()
            );
        }
        let new = directory.path().join("new.yaml");
        std::fs::write(&new, text)?;
        Ok(std::fs::rename(new, &path)?)
    };
    put(&["v: a", "v: a", "v: b"], 0)?;
    let cluster = format!(
        "- name: c\n  type: EDS\n  eds_cluster_config: {{eds_config: {{path_config_source: {{path: \"{}\"}}}}}}\n  lb_subset_config: {{subset_selectors: [{{keys: [v]}}, {{keys: [w], single_host_per_subset: true}}]}}\n",
        path.display()
    );
    let mut routes = String::new();
    for label in ["a", "b", "c"] {
        let _ = writeln!(
            routes,
            "- match: {{path: /{label}}}\n  route: {{cluster: c, {}}}",
            wanting(&format!("v: {label}"))
        );
    }
    let text = bootstrap(
        &[HttpListener::new("http", &routes).yaml()],
        &[cluster],
        "node: {id: id, cluster: cluster}\n",
    );
    let proxy = Proxy::start(binary, &text).await?;
    let mut seen = Vec::new();
    let steps: [&[&str]; 5] = [
        &["v: a", "v: a", "v: b"],
        &["v: a", "v: b", "v: b"],
        &["v: c, w: 1", "v: b, w: 1", "v: b, w: 2"],
        &["v: a"],
        &["v: a", "v: a", "v: b"],
    ];
    for (version, labels) in steps.into_iter().enumerate() {
        if version > 0 {
            put(labels, version)?;
            let updates = i64::try_from(version)? + 1;
            let admin = proxy.admin();
            eventually("the update", SOON, async || {
                let seen = admin.stat("cluster.c.update_success").await.ok()?;
                (seen >= updates).then_some(())
            })
            .await?;
        }
        for label in ["a", "b", "c"] {
            seen.push(format!("{version} {label} {}", counts(&proxy, &format!("/{label}")).await?));
        }
        seen.push(format!("{:?}", proxy.admin().stats("lb_subsets_").await?));
    }
    proxy.stop().await?;
    Ok(seen)
}

pub async fn compare(reference: &Binary, subject: &Binary) -> Result<()> {
    let mut hosts = Vec::new();
    for number in 0..HOSTS {
        let host = Upstream::start().await?;
        host.answer(Reply::raw(format!("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nh{number}")));
        hosts.push(host);
    }
    let wanted = observe(reference, &hosts).await?;
    let found = observe(subject, &hosts).await?;
    let mut differences = String::new();
    for key in wanted.keys().chain(found.keys().filter(|key| !wanted.contains_key(*key))) {
        let (wanted, found) = (wanted.get(key), found.get(key));
        if wanted != found {
            let _ = writeln!(differences, "{key}: Envoy {wanted:?}, here {found:?}");
        }
    }
    let wanted = observe_changes(reference, &hosts).await?;
    let found = observe_changes(subject, &hosts).await?;
    for (wanted, found) in wanted.iter().zip(&found) {
        if wanted != found {
            let _ = writeln!(differences, "changes: Envoy {wanted}, here {found}");
        }
    }
    ensure!(differences.is_empty(), "{differences}");
    Ok(())
}
