//! Weights by what hosts report of their load: each form of report, what of it counts, and who gets how many requests then.

use std::collections::BTreeMap;
use std::fmt::Write;

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use integration::client::Client;
use integration::config::{HttpListener, bootstrap};
use integration::expect::{SOON, eventually};
use integration::process::{Binary, Proxy};
use integration::upstream::{Reply, Upstream};
use prost::Message as _;
use xds_api::xds::data::orca::v3::OrcaLoadReport;

const POLICY: &str = "\"@type\": type.googleapis.com/envoy.extensions.load_balancing_policies.client_side_weighted_round_robin.v3.ClientSideWeightedRoundRobin";
const BY_LOCALITY: &str =
    "\"@type\": type.googleapis.com/envoy.extensions.load_balancing_policies.wrr_locality.v3.WrrLocality";

/// How many requests say who gets how many, once the weights are made.
const REQUESTS: usize = 400;
/// How far two counts may be apart: a schedule begins anywhere.
const STEPS: usize = 6;

/// Hosts, each with what it answers; and the cluster that they are of.
struct Case {
    name: String,
    /// Fields of the policy.
    policy: &'static str,
    /// Fields of the cluster.
    cluster: &'static str,
    by_locality: bool,
    /// Of each host: the fields of its answer and its trailers.
    hosts: Vec<(String, String)>,
    /// Who gets requests is compared, too.
    counts: bool,
}

impl Case {
    /// A host that reports `fields`, and one that reports nothing.
    fn report(name: &str, fields: &str) -> Self {
        Self {
            name: name.to_owned(),
            policy: "",
            cluster: "",
            by_locality: false,
            hosts: vec![(fields.to_owned(), String::new()), Default::default()],
            counts: false,
        }
    }

    fn policy(name: &str, policy: &'static str, report: &str) -> Self {
        Self { policy, ..Self::report(name, &text(report)) }
    }
}

fn text(report: &str) -> String {
    format!("endpoint-load-metrics: TEXT {report}\r\n")
}

fn binary() -> Vec<u8> {
    let report = OrcaLoadReport {
        rps_fractional: 100.0,
        cpu_utilization: 0.5,
        named_metrics: [("queues".to_owned(), 0.25)].into(),
        ..OrcaLoadReport::default()
    };
    report.encode_to_vec()
}

/// Every form of report, sound and broken.
fn reports() -> Vec<Case> {
    let padded = STANDARD.encode(binary());
    let bare = STANDARD_NO_PAD.encode(binary());
    let json = "{\"rps_fractional\": 100, \"cpu_utilization\": 0.5}";
    let sound = text("rps_fractional:100,cpu_utilization:0.5");
    let mut cases = vec![
        Case::report("nothing", ""),
        Case::report("text", &sound),
        Case::report("bin", &format!("endpoint-load-metrics: BIN {padded}\r\n")),
        Case::report("bin-header", &format!("endpoint-load-metrics-bin: {padded}\r\n")),
        Case::report("bin-bare", &format!("endpoint-load-metrics-bin: {bare}\r\n")),
        Case::report("bin-garbage", "endpoint-load-metrics-bin: ////\r\n"),
        Case::report("bin-empty", "endpoint-load-metrics-bin:\r\n"),
        Case::report("bin-first", &format!("endpoint-load-metrics-bin: !\r\n{sound}")),
        Case::report("json", &format!("endpoint-load-metrics: JSON {json}\r\n")),
        Case::report(
            "json-camel",
            "endpoint-load-metrics: JSON {\"rpsFractional\":\"100\",cpuUtilization:0.5,}\r\n",
        ),
        Case::report(
            "json-unknown",
            "endpoint-load-metrics: JSON {\"rps_fractional\":100,\"cpu_utilization\":0.5,\"x\":[{}]}\r\n",
        ),
        Case::report("json-broken", "endpoint-load-metrics: JSON {\"rps_fractional\":100,\r\n"),
        Case::report("json-list", "endpoint-load-metrics: JSON []\r\n"),
        Case::report("no-form", "endpoint-load-metrics: rps_fractional:100,cpu_utilization:0.5\r\n"),
        Case::report("lower-form", "endpoint-load-metrics: text rps_fractional:100,cpu_utilization:0.5\r\n"),
        Case::report("two-lines", &format!("{sound}{}", text("rps_fractional:1,cpu_utilization:0.5"))),
        Case::report("old-json", &format!("endpoint-load-metrics-json: {json}\r\n")),
    ];
    for (name, report) in [
        ("spaces", " rps_fractional: 100 ,\tcpu_utilization:0.5 ,,"),
        ("numbers", "rps_fractional:+1e2,cpu_utilization:.5"),
        ("space-in-name", "rps_fractional :100,cpu_utilization:0.5"),
        ("twice", "rps_fractional:100,cpu_utilization:0.5,rps_fractional:100"),
        ("unknown-name", "rps_fractional:100,cpu_utilization:0.5,other:1"),
        ("utilization-map", "rps_fractional:100,cpu_utilization:0.5,utilization.x:1"),
        ("old-rate", "rps:100,cpu_utilization:0.5"),
        ("no-value", "rps_fractional:100,cpu_utilization"),
        ("empty-value", "rps_fractional:100,cpu_utilization:0.5,eps:"),
        ("empty-name", "rps_fractional:100,cpu_utilization:0.5,:1"),
        ("empty-key", "rps_fractional:100,cpu_utilization:0.5,named_metrics.:1"),
        ("nan", "rps_fractional:100,cpu_utilization:0.5,eps:nan"),
        ("inf", "rps_fractional:100,cpu_utilization:0.5,eps:inf"),
        ("too-much", "rps_fractional:1e999,cpu_utilization:0.5"),
        ("cost-map", "rps_fractional:100,cpu_utilization:0.5,request_cost.x:1"),
        ("empty-utilization", "rps_fractional:100,cpu_utilization:0.5,utilization.:1"),
        ("no-rate", "cpu_utilization:0.5"),
        ("negative-rate", "rps_fractional:-1,cpu_utilization:0.5"),
        ("no-load", "rps_fractional:100"),
        ("negative-load", "rps_fractional:100,cpu_utilization:-1"),
        ("little", "rps_fractional:1,cpu_utilization:10"),
        ("very-much", "rps_fractional:1e20,cpu_utilization:1e-20"),
    ] {
        cases.push(Case::report(name, &text(report)));
    }
    let in_trailers = (String::new(), sound.clone());
    let trailers = "http_protocol_options: {enable_trailers: true}";
    cases.push(Case {
        cluster: trailers,
        hosts: vec![in_trailers, Default::default()],
        ..Case::report("trailers", "")
    });
    let both = (sound, text("rps_fractional:7,cpu_utilization:1"));
    cases.push(Case {
        cluster: trailers,
        hosts: vec![both, Default::default()],
        ..Case::report("trailers-too", "")
    });
    let broken = (text("rps_fractional:x"), text("rps_fractional:7,cpu_utilization:1"));
    cases.push(Case {
        cluster: trailers,
        hosts: vec![broken, Default::default()],
        ..Case::report("trailers-instead", "")
    });
    cases
}

/// What of a report counts, and when.
fn policies() -> Vec<Case> {
    let all = "rps_fractional:90,eps:9,cpu_utilization:0.5,mem_utilization:0.9,named_metrics.queue:0.3,named_metrics.other:0.8";
    let with_application = format!("{all},application_utilization:0.2");
    let of = Case::policy;
    vec![
        of("errors", "", all),
        of("errors-penalized", "error_utilization_penalty: 1", all),
        of("errors-much", "error_utilization_penalty: 2.5", all),
        of("named", "metric_names_for_computing_utilization: [named_metrics.queue]", all),
        of("named-all", "metric_names_for_computing_utilization: [\"named_metrics.*\"]", all),
        of(
            "named-two",
            "metric_names_for_computing_utilization: [named_metrics.queue, mem_utilization]",
            all,
        ),
        of(
            "named-none",
            "metric_names_for_computing_utilization: [named_metrics.none, queue, utilization.queue]",
            all,
        ),
        of(
            "utilization-named",
            "metric_names_for_computing_utilization: [\"utilization.*\"]",
            "rps_fractional:100,cpu_utilization:0.5,utilization.x:0.25",
        ),
        of("eps-named", "metric_names_for_computing_utilization: [eps]", all),
        of("application", "", &with_application),
        of(
            "application-named",
            "metric_names_for_computing_utilization: [named_metrics.queue]",
            &with_application,
        ),
        of(
            "application-other",
            "metric_names_for_computing_utilization: [named_metrics.none]",
            &with_application,
        ),
        of("blackout", "blackout_period: 1000s", all),
        of("expired", "weight_expiration_period: 0.001s", all),
    ]
}

/// Reports of several hosts.
fn fleets() -> Vec<Case> {
    let report = |weight: u32| (text(&format!("rps_fractional:{weight},cpu_utilization:1")), String::new());
    let silent = || (String::new(), String::new());
    let fleet = |name: &str, hosts| Case { hosts, counts: true, ..Case::report(name, "") };
    vec![
        fleet("two", vec![report(100), report(300)]),
        fleet("median", vec![report(100), report(300), silent()]),
        fleet("median-of-three", vec![report(100), report(300), report(110), silent()]),
        fleet("alone", vec![report(50)]),
        Case { by_locality: true, ..fleet("locality", vec![report(100), report(300), report(60), silent()]) },
        fleet("no-locality", vec![report(100), report(300), report(60), silent()]),
    ]
}

fn cluster(case: &Case, hosts: &[Upstream]) -> String {
    let separator = if case.policy.is_empty() { "" } else { ", " };
    let times = ["blackout_period: 0s", "weight_update_period: 0.1s"];
    let times: Vec<&str> = times.into_iter().filter(|time| !case.policy.starts_with(&time[..8])).collect();
    let own = format!("{POLICY}, {}{separator}{}", times.join(", "), case.policy);
    let typed = |config: &str| {
        format!("{{policies: [{{typed_extension_config: {{name: p, typed_config: {{{config}}}}}}}]}}")
    };
    let policy = match case.by_locality {
        true => typed(&format!("{BY_LOCALITY}, endpoint_picking_policy: {}", typed(&own))),
        false => typed(&own),
    };
    let mut yaml =
        format!("- name: {}\n  connect_timeout: 1s\n  load_balancing_policy: {policy}\n", case.name);
    if !case.cluster.is_empty() {
        let _ = writeln!(yaml, "  {}", case.cluster);
    }
    let _ = writeln!(yaml, "  load_assignment:\n    cluster_name: {}\n    endpoints:", case.name);
    for (zone, hosts) in hosts.chunks(2).enumerate() {
        let _ = writeln!(
            yaml,
            "    - {{locality: {{zone: z{zone}}}, load_balancing_weight: {}, lb_endpoints: [",
            1 + 2 * zone
        );
        for (index, host) in hosts.iter().enumerate() {
            let port = host.addr().port();
            // (What discovery says of weights is nothing here.)
            let weight = 5 + index;
            let _ = writeln!(
                yaml,
                "        {{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}}}, load_balancing_weight: {weight}}},"
            );
        }
        yaml.push_str("      ]}\n");
    }
    yaml
}

/// A cluster for each case, with its hosts.
struct Rig {
    cases: Vec<Case>,
    hosts: Vec<Vec<Upstream>>,
    /// Says that time has passed: what it reports changes.
    marker: Upstream,
}

fn marker_case() -> Case {
    Case { hosts: vec![Default::default()], ..Case::report("marker", "") }
}

impl Rig {
    async fn start() -> Result<Self> {
        let cases: Vec<Case> = reports().into_iter().chain(policies()).chain(fleets()).collect();
        let mut hosts = Vec::new();
        for case in &cases {
            let mut own = Vec::new();
            for (index, (fields, trailers)) in case.hosts.iter().enumerate() {
                let host = Upstream::start().await?;
                host.answer(Reply::raw(format!(
                    "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n{fields}\r\n2\r\nh{index}\r\n0\r\n{trailers}\r\n"
                )));
                own.push(host);
            }
            hosts.push(own);
        }
        Ok(Self { cases, hosts, marker: Upstream::start().await? })
    }

    fn configuration(&self) -> String {
        let marker = marker_case();
        let route = |name: &str| format!("- match: {{path: /{name}}}\n  route: {{cluster: {name}}}\n");
        let routes: String =
            self.cases.iter().map(|case| route(&case.name)).chain([route("marker")]).collect();
        let mut clusters: Vec<String> =
            self.cases.iter().zip(&self.hosts).map(|(case, hosts)| cluster(case, hosts)).collect();
        clusters.push(cluster(&marker, std::slice::from_ref(&self.marker)));
        bootstrap(&[HttpListener::new("http", &routes).yaml()], &clusters, "")
    }

    /// Waits until weights were made `times` times.
    async fn pass(&self, proxy: &Proxy, client: &mut Client, times: u32) -> Result<()> {
        for time in 1..=times {
            let report = text(&format!("rps_fractional:{},cpu_utilization:1", 1000 + time));
            self.marker.answer(Reply::raw(format!("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n{report}\r\n")));
            ask(client, "marker").await?;
            eventually("the marker's weight", SOON, async || {
                let weights = weights(proxy, "marker", std::slice::from_ref(&self.marker)).await.ok()?;
                (weights == [1000 + time]).then_some(())
            })
            .await?;
        }
        Ok(())
    }

    /// The weights of each case, and who gets how many requests.
    async fn observe(&self, binary: &Binary) -> Result<Vec<(Vec<u32>, BTreeMap<String, usize>)>> {
        let proxy = Proxy::start(binary, &self.configuration()).await?;
        let mut client = Client::connect(proxy.listener("http")?).await?;
        for (case, hosts) in self.cases.iter().zip(&self.hosts) {
            for _ in 0..4 * hosts.len() {
                ask(&mut client, &case.name).await.with_context(|| case.name.clone())?;
            }
        }
        self.pass(&proxy, &mut client, 3).await?;
        let mut all = Vec::new();
        for (case, hosts) in self.cases.iter().zip(&self.hosts) {
            let mut counts = BTreeMap::new();
            for _ in 0..if case.counts { REQUESTS } else { 0 } {
                *counts.entry(ask(&mut client, &case.name).await?).or_default() += 1;
            }
            all.push((weights(&proxy, &case.name, hosts).await?, counts));
        }
        proxy.stop().await?;
        Ok(all)
    }
}

/// Who answers.
async fn ask(client: &mut Client, name: &str) -> Result<String> {
    client.send(format!("GET /{name} HTTP/1.1\r\nhost: a\r\n\r\n").as_bytes()).await?;
    let response = client.response("GET", SOON).await?;
    ensure!(response.head.status()? == 200, "{name}: {:?}", response.head);
    Ok(String::from_utf8_lossy(&response.body).into_owned())
}

/// The weights of hosts, in their order.
async fn weights(proxy: &Proxy, name: &str, hosts: &[Upstream]) -> Result<Vec<u32>> {
    let text = proxy.admin().get("/clusters").await?;
    let weight = |host: &Upstream| {
        let prefix = format!("{name}::{}::weight::", host.addr());
        let line = text.lines().find_map(|line| line.strip_prefix(&prefix));
        line.with_context(|| prefix.clone())?.parse().context("a weight")
    };
    hosts.iter().map(weight).collect()
}

#[expect(clippy::print_stdout, reason = "SHOW asks for it")]
pub async fn compare(reference: &Binary, subject: &Binary) -> Result<()> {
    let rig = Rig::start().await?;
    let wanted = rig.observe(reference).await?;
    let found = rig.observe(subject).await?;
    let mut differences = String::new();
    for ((case, wanted), found) in rig.cases.iter().zip(&wanted).zip(&found) {
        if std::env::var_os("SHOW").is_some() {
            println!("{}: {wanted:?} and {found:?}", case.name);
        }
        let of = |side: &BTreeMap<String, usize>, key: &str| side.get(key).copied().unwrap_or(0);
        let mut keys = wanted.1.keys().chain(found.1.keys());
        let is_far = keys.any(|key| of(&wanted.1, key).abs_diff(of(&found.1, key)) > STEPS);
        if is_far || wanted.0 != found.0 {
            let _ = writeln!(differences, "{}: Envoy {wanted:?}, here {found:?}", case.name);
        }
    }
    ensure!(differences.is_empty(), "{differences}");
    // Reports that count are among them.
    let is_weighted = |name: &str| {
        let at = rig.cases.iter().position(|case| case.name == name);
        at.and_then(|at| wanted.get(at)).is_some_and(|(weights, _)| weights.iter().any(|weight| *weight > 1))
    };
    let missing: Vec<&str> = ["text", "bin", "bin-header", "json", "trailers", "named", "two"]
        .into_iter()
        .filter(|name| !is_weighted(name))
        .collect();
    ensure!(missing.is_empty(), "nothing was reported in {missing:?}");
    Ok(())
}
