//! Which hosts are picked how often: the same clusters, hosts and numbers of requests for both proxies.

use std::collections::BTreeMap;
use std::fmt::Write;

use anyhow::{Context, Result, ensure};
use integration::client::Client;
use integration::config::{HttpListener, bootstrap};
use integration::expect::SOON;
use integration::process::{Binary, Proxy};
use integration::upstream::{Reply, Upstream};

/// Hosts that a case may name, by number.
const HOSTS: usize = 6;
const REQUESTS: usize = 600;

/// How far the counts of a host may be apart.
#[derive(Clone, Copy)]
enum Within {
    /// A schedule: only where it begins is random.
    Steps(usize),
    /// Chance: five standard deviations of the difference of two counts, at most.
    Chance,
}

impl Within {
    fn limit(self) -> usize {
        match self {
            Self::Steps(steps) => steps,
            // each count has a variance of at most n/4
            Self::Chance => (5.0 * (REQUESTS as f64 / 2.0).sqrt()).ceil() as usize,
        }
    }
}

struct Case {
    name: &'static str,
    /// Fields of the cluster besides its name and endpoints.
    cluster: &'static str,
    /// Fields of the assignment besides its endpoints.
    policy: &'static str,
    /// Localities: fields of each, and its hosts as number and fields.
    localities: &'static [(&'static str, &'static [(usize, &'static str)])],
    within: Within,
}

const NO_PANIC: &str = "common_lb_config: {healthy_panic_threshold: {value: 0}}";
const UNHEALTHY: &str = "health_status: UNHEALTHY";
const DEGRADED: &str = "health_status: DEGRADED";
const DRAINING: &str = "health_status: DRAINING";
const EVEN: &[(&str, &[(usize, &str)])] = &[("", &[(0, ""), (1, ""), (2, "")])];
const WEIGHTED: &[(&str, &[(usize, &str)])] = &[(
    "",
    &[(0, "load_balancing_weight: 1"), (1, "load_balancing_weight: 2"), (2, "load_balancing_weight: 7")],
)];
const TWO_ZONES: &[(&str, &[(usize, &str)])] = &[
    ("locality: {zone: a}, load_balancing_weight: 1", &[(0, ""), (1, "")]),
    ("locality: {zone: b}, load_balancing_weight: 3", &[(2, ""), (3, "")]),
];
const HALF_A_ZONE: &[(&str, &[(usize, &str)])] = &[
    ("locality: {zone: a}, load_balancing_weight: 1", &[(0, ""), (1, "")]),
    ("locality: {zone: b}, load_balancing_weight: 3", &[(2, ""), (3, UNHEALTHY), (4, UNHEALTHY)]),
];
/// A quarter of the first priority is there: with 140 % that is good for 35 % of the load.
const SPILL: &[(&str, &[(usize, &str)])] = &[
    ("priority: 0", &[(0, ""), (1, UNHEALTHY), (2, UNHEALTHY), (3, UNHEALTHY)]),
    ("priority: 1", &[(4, ""), (5, "")]),
];
const DEGRADED_SPILL: &[(&str, &[(usize, &str)])] = &[
    ("priority: 0", &[(0, ""), (1, DEGRADED), (2, UNHEALTHY), (3, UNHEALTHY)]),
    ("priority: 1", &[(4, DEGRADED), (5, UNHEALTHY)]),
];
const MOSTLY_DOWN: &[(&str, &[(usize, &str)])] =
    &[("", &[(0, ""), (1, UNHEALTHY), (2, UNHEALTHY), (3, UNHEALTHY)])];

const CASES: &[Case] = &[
    Case { name: "rr", cluster: "", policy: "", localities: EVEN, within: Within::Steps(1) },
    Case { name: "rr-weighted", cluster: "", policy: "", localities: WEIGHTED, within: Within::Steps(4) },
    Case {
        name: "random",
        cluster: "lb_policy: RANDOM",
        policy: "",
        localities: WEIGHTED,
        within: Within::Chance,
    },
    Case {
        name: "least",
        cluster: "lb_policy: LEAST_REQUEST",
        policy: "",
        localities: EVEN,
        within: Within::Chance,
    },
    Case {
        name: "least-weighted",
        cluster: "lb_policy: LEAST_REQUEST",
        policy: "",
        localities: WEIGHTED,
        within: Within::Steps(4),
    },
    Case { name: "spill", cluster: NO_PANIC, policy: "", localities: SPILL, within: Within::Chance },
    Case {
        name: "spill-by-factor",
        cluster: NO_PANIC,
        policy: "overprovisioning_factor: 200",
        localities: SPILL,
        within: Within::Chance,
    },
    Case { name: "spill-in-panic", cluster: "", policy: "", localities: SPILL, within: Within::Chance },
    Case {
        name: "spill-by-weight",
        cluster: NO_PANIC,
        policy: "weighted_priority_health: true",
        localities: &[
            (
                "priority: 0",
                &[(0, "load_balancing_weight: 1"), (1, "load_balancing_weight: 4, health_status: UNHEALTHY")],
            ),
            ("priority: 1", &[(2, "")]),
        ],
        within: Within::Chance,
    },
    Case {
        name: "degraded",
        cluster: NO_PANIC,
        policy: "",
        localities: DEGRADED_SPILL,
        within: Within::Chance,
    },
    Case { name: "panic", cluster: "", policy: "", localities: MOSTLY_DOWN, within: Within::Steps(1) },
    Case {
        name: "no-panic",
        cluster: NO_PANIC,
        policy: "",
        localities: MOSTLY_DOWN,
        within: Within::Steps(0),
    },
    Case {
        name: "panic-fails",
        cluster: "common_lb_config: {zone_aware_lb_config: {fail_traffic_on_panic: true}}",
        policy: "",
        localities: MOSTLY_DOWN,
        within: Within::Steps(0),
    },
    Case {
        name: "all-down",
        cluster: NO_PANIC,
        policy: "",
        localities: &[("", &[(0, UNHEALTHY), (1, "health_status: TIMEOUT")])],
        within: Within::Steps(0),
    },
    Case {
        name: "draining",
        cluster: "",
        policy: "",
        localities: &[("", &[(0, ""), (1, DRAINING), (2, DRAINING), (3, "")])],
        within: Within::Steps(1),
    },
    Case {
        name: "zones-unweighted",
        cluster: "",
        policy: "",
        localities: TWO_ZONES,
        within: Within::Steps(1),
    },
    Case {
        name: "zones",
        cluster: "common_lb_config: {locality_weighted_lb_config: {}}",
        policy: "",
        localities: TWO_ZONES,
        within: Within::Steps(4),
    },
    Case {
        name: "zones-half-down",
        cluster: "common_lb_config: {locality_weighted_lb_config: {}, healthy_panic_threshold: {value: 0}}",
        policy: "",
        localities: HALF_A_ZONE,
        within: Within::Steps(4),
    },
    Case {
        name: "zones-typed",
        cluster: "load_balancing_policy: {policies: [{typed_extension_config: {name: r, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.load_balancing_policies.round_robin.v3.RoundRobin, locality_lb_config: {locality_weighted_lb_config: {}}}}}]}",
        policy: "",
        localities: TWO_ZONES,
        within: Within::Steps(4),
    },
    Case {
        name: "full-scan",
        cluster: "load_balancing_policy: {policies: [{typed_extension_config: {name: l, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.load_balancing_policies.least_request.v3.LeastRequest, selection_method: FULL_SCAN}}}]}",
        policy: "",
        localities: EVEN,
        within: Within::Chance,
    },
];

fn cluster(case: &Case, upstreams: &[Upstream]) -> String {
    let mut yaml = format!("- name: {}\n  connect_timeout: 1s\n", case.name);
    if !case.cluster.is_empty() {
        let _ = writeln!(yaml, "  {}", case.cluster);
    }
    let _ = writeln!(
        yaml,
        "  load_assignment:\n    cluster_name: {}\n    policy: {{{}}}\n    endpoints:",
        case.name, case.policy
    );
    for (fields, hosts) in case.localities {
        let _ =
            writeln!(yaml, "    - {{{fields}{}lb_endpoints: [", if fields.is_empty() { "" } else { ", " });
        for (number, fields) in *hosts {
            let port = upstreams[*number].addr().port();
            let _ = writeln!(
                yaml,
                "        {{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}}}, {fields}}},"
            );
        }
        yaml.push_str("      ]}\n");
    }
    yaml
}

/// How often each host answered, `503` included.
async fn counts(proxy: &Proxy, case: &Case) -> Result<BTreeMap<String, usize>> {
    let mut client = Client::connect(proxy.listener("http")?).await?;
    let mut counts = BTreeMap::new();
    for _ in 0..REQUESTS {
        client.send(format!("GET /{} HTTP/1.1\r\nhost: a\r\n\r\n", case.name).as_bytes()).await?;
        let response = client.response("GET", SOON).await?;
        let who = match response.head.status()? {
            200 => String::from_utf8_lossy(&response.body).into_owned(),
            status => status.to_string(),
        };
        *counts.entry(who).or_default() += 1;
    }
    Ok(counts)
}

/// What a proxy does in every case: counts of answers, and picks in panic.
async fn distribution(
    binary: &Binary,
    upstreams: &[Upstream],
) -> Result<Vec<(BTreeMap<String, usize>, i64)>> {
    let routes: String = CASES
        .iter()
        .map(|case| format!("- match: {{path: /{}}}\n  route: {{cluster: {}}}\n", case.name, case.name))
        .collect();
    let clusters: Vec<String> = CASES.iter().map(|case| cluster(case, upstreams)).collect();
    let text = bootstrap(&[HttpListener::new("http", &routes).yaml()], &clusters, "");
    let proxy = Proxy::start(binary, &text).await?;
    let mut all = Vec::new();
    for case in CASES {
        let counts = counts(&proxy, case).await.with_context(|| case.name)?;
        let panics = proxy.admin().stat(&format!("cluster.{}.lb_healthy_panic", case.name)).await?;
        all.push((counts, panics));
    }
    proxy.stop().await?;
    Ok(all)
}

#[expect(clippy::print_stdout, reason = "SHOW asks for it")]
pub async fn compare(reference: &Binary, subject: &Binary) -> Result<()> {
    let mut upstreams = Vec::new();
    for number in 0..HOSTS {
        let upstream = Upstream::start().await?;
        upstream.answer(Reply::raw(format!("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nh{number}")));
        upstreams.push(upstream);
    }
    let wanted = distribution(reference, &upstreams).await?;
    let found = distribution(subject, &upstreams).await?;
    let mut differences = String::new();
    for ((case, wanted), found) in CASES.iter().zip(&wanted).zip(&found) {
        if std::env::var_os("SHOW").is_some() {
            println!("{}: {wanted:?} and {found:?}", case.name);
        }
        let keys = wanted.0.keys().chain(found.0.keys());
        let of = |side: &BTreeMap<String, usize>, key: &str| side.get(key).copied().unwrap_or(0);
        let far =
            keys.filter(|key| of(&wanted.0, key).abs_diff(of(&found.0, key)) > case.within.limit()).count();
        let panics_differ = match case.within {
            Within::Steps(_) => wanted.1 != found.1,
            Within::Chance => (wanted.1 == 0) != (found.1 == 0),
        };
        if far > 0 || panics_differ {
            let _ = writeln!(differences, "{}: Envoy {wanted:?}, here {found:?}", case.name);
        }
    }
    ensure!(differences.is_empty(), "{differences}");
    Ok(())
}
