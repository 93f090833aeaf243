//! Routing by zone: how many requests go to each zone, for proxies that are spread over zones in different ways.

use std::collections::BTreeMap;
use std::fmt::Write;

use anyhow::{Context, Result, ensure};
use integration::client::Client;
use integration::config::{HttpListener, bootstrap, indent};
use integration::expect::SOON;
use integration::process::{Binary, Proxy};
use integration::upstream::{Reply, Upstream};

const HOSTS: usize = 8;
const REQUESTS: usize = 400;
/// Five standard deviations of the difference of two counts, at most.
const CHANCE: usize = 71;

/// A proxy in zone `a` of region `r`.
struct Fleet {
    /// Localities of the local cluster, each with its hosts.
    local: &'static [(&'static str, &'static [&'static str])],
    clusters: &'static [Case],
}

/// Name, fields of the cluster, and localities with fields of their hosts.
type Case = (&'static str, &'static str, &'static [(&'static str, &'static [&'static str])]);

const A: &str = "locality: {region: r, zone: a}";
const B: &str = "locality: {region: r, zone: b}";
const C: &str = "locality: {region: r, zone: c}";
/// Another region has a zone of the same name.
const OTHER_A: &str = "locality: {region: s, zone: a}";
const ILL: &str = "health_status: UNHEALTHY";
const DEGRADED: &str = "health_status: DEGRADED";
const SMALL: &str = "common_lb_config: {zone_aware_lb_config: {min_cluster_size: 1}}";
const FORCED: &str = "load_balancing_policy: {policies: [{typed_extension_config: {name: r, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.load_balancing_policies.round_robin.v3.RoundRobin, locality_lb_config: {zone_aware_lb_config: {force_local_zone: {min_size: 2}, min_cluster_size: 2}}}}}]}";
const HEAVY: &str = "load_balancing_policy: {policies: [{typed_extension_config: {name: l, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.load_balancing_policies.random.v3.Random, locality_lb_config: {zone_aware_lb_config: {locality_basis: HEALTHY_HOSTS_WEIGHT}}}}}]}";
const SUBSETS: &str = "common_lb_config: {zone_aware_lb_config: {min_cluster_size: 1}}\nlb_subset_config: {fallback_policy: DEFAULT_SUBSET, default_subset: {v: x}, subset_selectors: [{keys: [v]}]}";
const EVEN: &[(&str, &[&str])] = &[(A, &["", ""]), (B, &["", ""]), (C, &["", ""])];

const FLEETS: &[Fleet] = &[
    Fleet {
        local: &[(A, &["", ""]), (B, &["", ""]), (C, &[""])],
        clusters: &[
            ("direct", "", EVEN),
            ("residual", "", &[(A, &["", ""]), (B, &["", "", "", ""]), (C, &["", ""])]),
            ("least", "lb_policy: LEAST_REQUEST", &[(A, &["", ""]), (B, &["", "", "", ""]), (C, &["", ""])]),
            ("elsewhere", "", &[(B, &["", "", "", ""]), (C, &["", "", "", ""])]),
            ("region", "", &[(OTHER_A, &["", "", ""]), (B, &["", "", ""]), (C, &["", ""])]),
            ("small", "", &[(A, &["", ""]), (B, &["", ""])]),
            ("small-wanted", SMALL, &[(A, &["", ""]), (B, &["", ""])]),
            ("one-zone", "", &[(B, &["", "", "", "", "", ""])]),
            ("half", "common_lb_config: {zone_aware_lb_config: {routing_enabled: {value: 50}}}", EVEN),
            ("none", "common_lb_config: {zone_aware_lb_config: {routing_enabled: {value: 0}}}", EVEN),
            ("weighted", "common_lb_config: {locality_weighted_lb_config: {}}", EVEN),
            ("ill", SMALL, &[(A, &["", ILL, ILL]), (B, &["", "", ""])]),
            ("degraded", SMALL, &[(A, &["", DEGRADED, DEGRADED, DEGRADED]), (B, &["", ILL, ILL])]),
            ("forced", FORCED, &[(A, &["", ""]), (B, &["", "", "", "", "", ""])]),
            ("forced-too-few", FORCED, &[(A, &["", ILL]), (B, &["", "", "", "", ""])]),
            ("heavy", HEAVY, &[(A, &["", ""]), (B, &["load_balancing_weight: 5", ""]), (C, &["", ""])]),
            ("hashed", "lb_policy: RING_HASH", EVEN),
            (
                "subsets",
                SUBSETS,
                &[
                    (A, &["metadata: {filter_metadata: {envoy.lb: {v: x}}}", "", ""]),
                    (B, &["metadata: {filter_metadata: {envoy.lb: {v: x}}}", ""]),
                ],
            ),
        ],
    },
    Fleet { local: &[(A, &["", ""])], clusters: &[("alone", "", EVEN), ("alone-forced", FORCED, EVEN)] },
    Fleet {
        local: &[(B, &["", ""]), (C, &[""])],
        clusters: &[("absent", "", EVEN), ("absent-forced", FORCED, EVEN)],
    },
    Fleet {
        local: &[(A, &["", ILL, ILL]), (B, &["", ILL, ILL])],
        clusters: &[
            ("panic", "", EVEN),
            ("panic-fails", "common_lb_config: {zone_aware_lb_config: {fail_traffic_on_panic: true}}", EVEN),
        ],
    },
];

fn cluster((name, fields, localities): &Case, hosts: &[Upstream]) -> String {
    let mut yaml = format!("- name: {name}\n  connect_timeout: 1s\n{}", indent(fields, 2));
    let _ = writeln!(yaml, "  load_assignment:\n    cluster_name: {name}\n    endpoints:");
    let mut hosts = hosts.iter();
    for (locality, endpoints) in *localities {
        let _ = writeln!(yaml, "    - {{{locality}, load_balancing_weight: 1, lb_endpoints: [");
        for (fields, host) in endpoints.iter().zip(hosts.by_ref()) {
            let port = host.addr().port();
            let _ = writeln!(
                yaml,
                "        {{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}}}, {fields}}},"
            );
        }
        yaml.push_str("      ]}\n");
    }
    yaml
}

/// How often each zone answered, by the name of the case; and the statistics.
async fn observe(
    binary: &Binary,
    fleet: &Fleet,
    hosts: &[Upstream],
) -> Result<BTreeMap<String, BTreeMap<String, usize>>> {
    let mut routes = String::new();
    let mut clusters = vec![cluster(&("local", "", fleet.local), hosts)];
    for case in fleet.clusters {
        let _ = writeln!(routes, "- match: {{path: /{}}}\n  route: {{cluster: {}}}", case.0, case.0);
        clusters.push(cluster(case, hosts));
    }
    let node = "node: {id: id, cluster: cluster, locality: {region: r, zone: a}}\ncluster_manager: {local_cluster_name: local}\n";
    let text = bootstrap(&[HttpListener::new("http", &routes).yaml()], &clusters, node);
    let proxy = Proxy::start(binary, &text).await?;
    let mut seen = BTreeMap::new();
    for (name, _, localities) in fleet.clusters {
        let mut client = Client::connect(proxy.listener("http")?).await?;
        let zone_of = |host: usize| {
            let mut end = 0;
            localities.iter().find_map(|(locality, hosts)| {
                end += hosts.len();
                (host < end).then_some(*locality)
            })
        };
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for _ in 0..REQUESTS {
            client.send(format!("GET /{name} HTTP/1.1\r\nhost: a\r\n\r\n").as_bytes()).await?;
            let response = client.response("GET", SOON).await?;
            let who = match response.head.status()? {
                200 => {
                    let number: usize = std::str::from_utf8(&response.body)?.trim().parse()?;
                    zone_of(number).context("a host of no zone")?.to_owned()
                }
                status => status.to_string(),
            };
            *counts.entry(who).or_default() += 1;
        }
        for statistic in ["lb_zone_routing_", "lb_zone_no_capacity", "lb_healthy_panic"] {
            for (name, value) in proxy.admin().stats(&format!("cluster.{name}.{statistic}")).await? {
                counts.insert(name, usize::try_from(value)?);
            }
        }
        let not_ok = format!("cluster.{name}.lb_local_cluster_not_ok");
        let value = usize::try_from(proxy.admin().stat(&not_ok).await?)?;
        // (Those that are counted when hosts change, not for requests, are few.)
        counts.insert(not_ok, value / REQUESTS);
        seen.insert((*name).to_owned(), counts);
    }
    proxy.stop().await?;
    Ok(seen)
}

pub async fn compare(reference: &Binary, subject: &Binary) -> Result<()> {
    let mut hosts = Vec::new();
    for number in 0..HOSTS {
        let host = Upstream::start().await?;
        host.answer(Reply::raw(format!("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{number} ")));
        hosts.push(host);
    }
    let mut differences = String::new();
    for fleet in FLEETS {
        let wanted = observe(reference, fleet, &hosts).await?;
        let found = observe(subject, fleet, &hosts).await?;
        for (name, wanted) in &wanted {
            let found = found.get(name).context("a case is missing")?;
            let of = |side: &BTreeMap<String, usize>, key: &str| side.get(key).copied().unwrap_or(0);
            let differs = |key: &String| {
                let (wanted, found) = (of(wanted, key), of(found, key));
                wanted.abs_diff(found) > CHANCE || (wanted == 0) != (found == 0)
            };
            if wanted.keys().chain(found.keys()).any(differs) {
                let _ = writeln!(differences, "{name}: Envoy {wanted:?}, here {found:?}");
            }
        }
    }
    ensure!(differences.is_empty(), "{differences}");
    Ok(())
}
