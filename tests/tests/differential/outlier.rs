//! Outlier detection: which hosts are ejected when, what is counted, what `/clusters` and the event log say.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use integration::client::Client;
use integration::config::{HttpListener, bootstrap};
use integration::expect::{SOON, eventually, whole_lines};
use integration::ports::Refusing;
use integration::process::{Binary, Proxy};
use integration::upstream::{Reply, Step, Upstream};
use serde_json::Value;

/// What a host does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Does {
    Well,
    Error,
    Gateway,
    /// A status of gRPC that stands for 503.
    Grpc,
    Refuse,
    HangUp,
    Hang,
    /// Says that it had rather not be asked.
    Degraded,
    /// Has a header in its answers.
    Bad,
}

/// What a case waits for after its requests.
#[derive(Clone, Copy)]
enum Then {
    Nothing,
    /// This statistic of the cluster's outlier detection is at least so much.
    Until(&'static str, i64),
    /// So many are ejected, and then none.
    Back(i64),
}

struct Case {
    name: &'static str,
    /// Fields of `outlier_detection`.
    detection: &'static str,
    /// What the runtime says while the case lasts: keys without `outlier_detection.`, and values.
    runtime: &'static [(&'static str, &'static str)],
    /// Fields of the route's action.
    route: &'static str,
    /// Which answers are failures (`error_matcher`), if that is said.
    errors: &'static str,
    /// Whether requests are of gRPC.
    grpc: bool,
    hosts: &'static [Does],
    /// How many requests for each host.
    rounds: usize,
    then: Then,
}

impl Case {
    const fn new(name: &'static str, detection: &'static str, hosts: &'static [Does]) -> Self {
        Self {
            name,
            detection,
            runtime: &[],
            route: "",
            errors: "",
            grpc: true,
            hosts,
            rounds: 12,
            then: Then::Nothing,
        }
    }

    const fn ruled(mut self, runtime: &'static [(&'static str, &'static str)]) -> Self {
        self.runtime = runtime;
        self
    }

    const fn route(mut self, route: &'static str) -> Self {
        self.route = route;
        self
    }

    const fn errors(mut self, errors: &'static str) -> Self {
        self.errors = errors;
        self.grpc = false;
        self
    }

    const fn of_grpc(mut self) -> Self {
        self.grpc = true;
        self
    }

    const fn rounds(mut self, rounds: usize) -> Self {
        self.rounds = rounds;
        self
    }

    const fn then(mut self, then: Then) -> Self {
        self.then = then;
        self
    }
}

use Does::{Bad, Degraded, Error, Gateway, Grpc, Hang, HangUp, Refuse, Well};

const ALL: &str = "max_ejection_percent: 100";
const RATES: &str = "max_ejection_percent: 100, interval: 0.5s, consecutive_5xx: 1000, success_rate_minimum_hosts: 3, success_rate_request_volume: 5, failure_percentage_request_volume: 5, failure_percentage_minimum_hosts: 2";

const CASES: &[Case] = &[
    Case::new("five in a row", ALL, &[Well, Error]),
    Case::new("three in a row", "max_ejection_percent: 100, consecutive_5xx: 3", &[Well, Error]),
    Case::new("none is too many", "max_ejection_percent: 100, consecutive_5xx: 0", &[Well, Error]),
    Case::new(
        "found but not ejected",
        "max_ejection_percent: 100, consecutive_5xx: 3, enforcing_consecutive_5xx: 0",
        &[Well, Error],
    ),
    Case::new(
        "gateway failures",
        "max_ejection_percent: 100, consecutive_gateway_failure: 3, enforcing_consecutive_gateway_failure: 100",
        &[Well, Gateway],
    ),
    Case::new("gateway failures by default", ALL, &[Well, Gateway]),
    Case::new(
        "other failures are none of a gateway",
        "max_ejection_percent: 100, consecutive_gateway_failure: 3, enforcing_consecutive_gateway_failure: 100, enforcing_consecutive_5xx: 0",
        &[Well, Error],
    ),
    Case::new("three in a row, at run time", ALL, &[Well, Error]).ruled(&[("consecutive_5xx", "3")]),
    Case::new("never, at run time", "max_ejection_percent: 100, consecutive_5xx: 3", &[Well, Error])
        .ruled(&[("consecutive_5xx", "1000")]),
    Case::new("found but not ejected, at run time", ALL, &[Well, Error])
        .ruled(&[("enforcing_consecutive_5xx", "0")]),
    Case::new("gateway failures, at run time", ALL, &[Well, Gateway])
        .ruled(&[("consecutive_gateway_failure", "3"), ("enforcing_consecutive_gateway_failure", "100")]),
    Case::new(
        "nobody listens, split, at run time",
        "max_ejection_percent: 100, split_external_local_origin_errors: true",
        &[Well, Refuse],
    )
    .ruled(&[("consecutive_local_origin_failure", "3")]),
    Case::new(
        "nobody listens, split, not enforced at run time",
        "max_ejection_percent: 100, split_external_local_origin_errors: true",
        &[Well, Refuse],
    )
    .ruled(&[("enforcing_consecutive_local_origin_failure", "0")]),
    Case::new("one of two, at run time", "", &[Well, Error]).ruled(&[("max_ejection_percent", "50")]),
    Case::new("none of two, at run time", ALL, &[Well, Error]).ruled(&[("max_ejection_percent", "49")]),
    Case::new("a runtime that says no number", ALL, &[Well, Error]).ruled(&[("consecutive_5xx", "three")]),
    Case::new("ten percent of two are none", "", &[Well, Error]),
    Case::new("but one may be", "always_eject_one_host: true", &[Well, Error]),
    Case::new("all of them", ALL, &[Error, Error]),
    Case::new("nobody listens", ALL, &[Well, Refuse]),
    Case::new(
        "nobody listens, split",
        "max_ejection_percent: 100, split_external_local_origin_errors: true",
        &[Well, Refuse],
    ),
    Case::new(
        "nobody listens, split, three in a row",
        "max_ejection_percent: 100, split_external_local_origin_errors: true, consecutive_local_origin_failure: 3",
        &[Well, Refuse],
    ),
    Case::new(
        "nobody listens, split, not enforced",
        "max_ejection_percent: 100, split_external_local_origin_errors: true, enforcing_consecutive_local_origin_failure: 0",
        &[Well, Refuse],
    ),
    Case::new("hangs up", ALL, &[Well, HangUp]),
    Case::new(
        "hangs up, split",
        "max_ejection_percent: 100, split_external_local_origin_errors: true",
        &[Well, HangUp],
    ),
    Case::new(
        "errors, split",
        "max_ejection_percent: 100, split_external_local_origin_errors: true",
        &[Well, Error],
    ),
    Case::new(
        "errors, split, gateway failures enforced",
        "max_ejection_percent: 100, split_external_local_origin_errors: true, consecutive_gateway_failure: 3, enforcing_consecutive_gateway_failure: 100",
        &[Well, Error],
    ),
    Case::new("no answer in time", "max_ejection_percent: 100, consecutive_5xx: 2", &[Well, Hang])
        .route("timeout: 0.05s")
        .rounds(5),
    Case::new(
        "no answer in time, split",
        "max_ejection_percent: 100, split_external_local_origin_errors: true, consecutive_local_origin_failure: 2",
        &[Well, Hang],
    )
    .route("timeout: 0.05s")
    .rounds(5),
    Case::new("no answer of a try in time", "max_ejection_percent: 100, consecutive_5xx: 2", &[Well, Hang])
        .route("retry_policy: {retry_on: 5xx, per_try_timeout: 0.05s}")
        .rounds(5),
    Case::new("retried", ALL, &[Well, Error]).route("retry_policy: {retry_on: 5xx}"),
    Case::new("retried connections", ALL, &[Well, Refuse]).route("retry_policy: {retry_on: connect-failure}"),
    Case::new("a status of gRPC", ALL, &[Well, Grpc]),
    Case::new("degraded", "detect_degraded_hosts: true", &[Well, Degraded]),
    Case::new("all are degraded", "detect_degraded_hosts: true", &[Degraded, Degraded]),
    Case::new("degraded, and nobody looks", ALL, &[Well, Degraded]),
    Case::new("an error is one, degraded or not", "max_ejection_percent: 100, detect_degraded_hosts: true", &[Well, Error]),
    Case::new("answers that are errors", ALL, &[Well, Bad]).errors(BAD),
    Case::new("errors that are none", ALL, &[Well, Gateway]).errors(BAD),
    Case::new("errors by status", ALL, &[Well, Gateway]).errors(
        "{and_match: {rules: [{http_response_headers_match: {headers: [{name: ':status', string_match: {exact: '503'}}]}}, {not_match: {http_response_headers_match: {headers: [{name: x-field}]}}}]}}",
    ),
    Case::new("all are errors", ALL, &[Well, Degraded]).errors("{any_match: true}"),
    Case::new("answers over gRPC are what they say", ALL, &[Well, Bad]).errors(BAD).of_grpc(),
    Case::new("errors over gRPC are some", ALL, &[Well, Gateway]).errors(BAD).of_grpc(),
    Case::new("degraded errors", "max_ejection_percent: 100, detect_degraded_hosts: true", &[Well, Degraded])
        .errors("{or_match: {rules: [{http_response_headers_match: {headers: [{name: x-envoy-degraded}]}}, {not_match: {any_match: true}}]}}"),
    Case::new("success rate", RATES, &[Well, Well, Well, Well, Error])
        .rounds(30)
        .then(Then::Until("ejections_enforced_success_rate", 1)),
    Case::new(
        "success rate, at run time",
        "max_ejection_percent: 100, interval: 0.5s, consecutive_5xx: 1000",
        &[Well, Well, Well, Well, Error],
    )
    .ruled(&[("success_rate_minimum_hosts", "3"), ("success_rate_request_volume", "5"), ("success_rate_stdev_factor", "1500")])
    .rounds(30)
    .then(Then::Until("ejections_enforced_success_rate", 1)),
    Case::new("success rate, not enforced at run time", RATES, &[Well, Well, Well, Well, Error])
        .ruled(&[("enforcing_success_rate", "0")])
        .rounds(30)
        .then(Then::Until("ejections_detected_success_rate", 1)),
    Case::new(
        "failure percentage, at run time",
        "max_ejection_percent: 100, interval: 0.5s, consecutive_5xx: 1000",
        &[Well, Error],
    )
    .ruled(&[
        ("failure_percentage_request_volume", "5"),
        ("failure_percentage_minimum_hosts", "2"),
        ("failure_percentage_threshold", "70"),
        ("enforcing_failure_percentage", "100"),
    ])
    .rounds(30)
    .then(Then::Until("ejections_enforced_failure_percentage", 1)),
    Case::new("failure percentage by default", RATES, &[Error, Error])
        .rounds(30)
        .then(Then::Until("ejections_detected_failure_percentage", 2)),
    Case::new(
        "failure percentage",
        "max_ejection_percent: 100, interval: 0.5s, consecutive_5xx: 1000, failure_percentage_request_volume: 5, failure_percentage_minimum_hosts: 2, enforcing_failure_percentage: 100",
        &[Well, Error],
    )
    .rounds(30)
    .then(Then::Until("ejections_enforced_failure_percentage", 1)),
    Case::new(
        "success rate of connections",
        "max_ejection_percent: 100, interval: 0.5s, consecutive_local_origin_failure: 1000, split_external_local_origin_errors: true, success_rate_minimum_hosts: 3, success_rate_request_volume: 5",
        &[Well, Well, Well, Well, Refuse],
    )
    .rounds(30)
    .then(Then::Until("ejections_enforced_local_origin_success_rate", 1)),
    Case::new(
        "failure percentage of connections",
        "max_ejection_percent: 100, interval: 0.5s, consecutive_local_origin_failure: 1000, split_external_local_origin_errors: true, failure_percentage_request_volume: 5, failure_percentage_minimum_hosts: 2, enforcing_failure_percentage_local_origin: 100",
        &[Well, Refuse],
    )
    .rounds(30)
    .then(Then::Until("ejections_enforced_local_origin_failure_percentage", 1)),
    Case::new(
        "back after a while",
        "max_ejection_percent: 100, interval: 0.1s, base_ejection_time: 1.5s",
        &[Well, Error],
    )
    .rounds(6)
    .then(Then::Back(1)),
];

const BAD: &str = "{http_response_headers_match: {headers: [{name: x-field, string_match: {exact: bad}}]}}";

/// A host of each kind that answers; those that refuse are ports that nobody listens on.
struct Hosts {
    listening: Vec<(Does, Upstream)>,
    refusing: Vec<Refusing>,
}

/// How often one kind may be in a cluster.
const OF_A_KIND: usize = 4;

impl Hosts {
    async fn start() -> Result<Self> {
        let mut listening = Vec::new();
        for does in [Well, Error, Gateway, Grpc, HangUp, Hang, Degraded, Bad] {
            for _ in 0..OF_A_KIND {
                let upstream = Upstream::start().await?;
                upstream.answer(match does {
                    Error => Reply::raw("HTTP/1.1 500 X\r\ncontent-length: 0\r\n\r\n"),
                    Gateway => Reply::raw("HTTP/1.1 503 X\r\ncontent-length: 0\r\n\r\n"),
                    Grpc => Reply::raw("HTTP/1.1 200 OK\r\ngrpc-status: 14\r\ncontent-length: 0\r\n\r\n"),
                    Degraded => {
                        Reply::raw("HTTP/1.1 200 OK\r\nx-envoy-degraded: 1\r\ncontent-length: 0\r\n\r\n")
                    }
                    Bad => Reply::raw("HTTP/1.1 200 OK\r\nx-field: bad\r\ncontent-length: 0\r\n\r\n"),
                    HangUp => Reply::steps([Step::Close]),
                    Hang => Reply::steps([Step::Stall]),
                    Well | Refuse => {
                        Reply::raw("HTTP/1.1 200 OK\r\ngrpc-status: 0\r\ncontent-length: 0\r\n\r\n")
                    }
                });
                listening.push((does, upstream));
            }
        }
        let refusing = (0..OF_A_KIND).map(|_| Refusing::new()).collect::<Result<_>>()?;
        Ok(Self { listening, refusing })
    }

    /// The addresses of the hosts of `case`, in its order.
    fn of(&self, case: &Case) -> Vec<SocketAddr> {
        let mut used: BTreeMap<Does, usize> = BTreeMap::new();
        let mut next = |does: Does| {
            let number = used.entry(does).or_default();
            *number += 1;
            *number - 1
        };
        let address = |does: Does| match does {
            Refuse => self.refusing[next(does)].addr(),
            _ => {
                let of_kind = self.listening.iter().filter(|(kind, _)| *kind == does);
                let addresses: Vec<SocketAddr> = of_kind.map(|(_, upstream)| upstream.addr()).collect();
                addresses[next(does)]
            }
        };
        case.hosts.iter().copied().map(address).collect()
    }
}

fn cluster(number: usize, case: &Case, hosts: &[SocketAddr]) -> String {
    let mut yaml = format!(
        "- name: c{number}\n  connect_timeout: 1s\n  outlier_detection: {{{}}}\n  load_assignment:\n    cluster_name: c{number}\n    endpoints:\n    - lb_endpoints:\n",
        case.detection
    );
    if !case.errors.is_empty() {
        let options = format!(
            "{{\"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, explicit_http_config: {{http_protocol_options: {{}}}}, outlier_detection: {{error_matcher: {}}}}}",
            case.errors
        );
        let options = format!(
            "  typed_extension_protocol_options: {{envoy.extensions.upstreams.http.v3.HttpProtocolOptions: {options}}}\n  load_assignment:"
        );
        yaml = yaml.replace("  load_assignment:", &options);
    }
    for host in hosts {
        let _ = writeln!(
            yaml,
            "      - endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {}}}}}}}",
            host.port()
        );
    }
    yaml
}

/// What one proxy does in one case.
#[derive(Debug, PartialEq)]
struct Facts {
    /// How often each status came.
    statuses: BTreeMap<u16, usize>,
    stats: BTreeMap<String, i64>,
    /// What `/clusters` says of the health of each host.
    flags: Vec<String>,
    /// The lines of the event log, without times and addresses.
    events: Vec<String>,
}

/// Has the runtime say this; nothing of what has no value.
async fn rule(proxy: &Proxy, keys: &[(&str, &str)]) -> Result<()> {
    for (key, value) in keys {
        let path = format!("/runtime_modify?outlier_detection.{key}={value}");
        let answer = proxy.admin().request("POST", &path).await?;
        ensure!(answer.status == 200, "{path}: {}", answer.body);
    }
    Ok(())
}

async fn facts(proxy: &Proxy, number: usize, case: &Case, hosts: &[SocketAddr]) -> Result<Facts> {
    let name = format!("c{number}");
    let mut statuses = BTreeMap::new();
    rule(proxy, case.runtime).await?;
    let mut client = Client::connect(proxy.listener("http")?).await?;
    for _ in 0..case.rounds * case.hosts.len() {
        let kind = if case.grpc { "application/grpc" } else { "text/plain" };
        let request = format!("GET /{name} HTTP/1.1\r\nhost: a\r\ncontent-type: {kind}\r\n\r\n");
        client.send(request.as_bytes()).await?;
        let status = client.response("GET", SOON).await?.head.status()?;
        *statuses.entry(status).or_default() += 1;
        // The thread that judges is the one that answers here: what it was told of before has its effect.
        proxy.admin().get("/ready").await?;
    }
    let stat = |stat: &str| format!("cluster.{name}.outlier_detection.{stat}");
    let reaches = async |stat: String, value: i64| {
        let reached = async || (proxy.admin().stat(&stat).await.ok()? >= value).then_some(());
        eventually(&format!("{stat} of {value}"), SOON, reached).await
    };
    match case.then {
        Then::Nothing => {}
        Then::Until(what, value) => reaches(stat(what), value).await?,
        Then::Back(ejected) => {
            reaches(stat("ejections_enforced_total"), ejected).await?;
            let all_back =
                async || (proxy.admin().stat(&stat("ejections_active")).await.ok()? == 0).then_some(());
            eventually("all are back", SOON, all_back).await?;
        }
    }
    let mut stats =
        proxy.admin().stats(&format!("^cluster.{name}.(outlier_detection|membership_healthy)")).await?;
    rule(proxy, &case.runtime.iter().map(|(key, _)| (*key, "")).collect::<Vec<_>>()).await?;
    let clusters = proxy.admin().get("/clusters").await?;
    let sum = |part: &str| -> i64 {
        stats.iter().filter(|(name, _)| name.contains(part)).map(|(_, value)| value).sum()
    };
    let back = i64::from(matches!(case.then, Then::Back(_)));
    let count = usize::try_from(sum("ejections_detected_") - sum("ejections_overflow") + back)?;
    // How many requests a sweep sees, and which one sees them, is left to chance.
    let is_swept = !matches!(case.then, Then::Nothing);
    let events = events(proxy, (&name, case), hosts, count, is_swept).await?;
    if matches!(case.then, Then::Until(..)) {
        stats.values_mut().for_each(|value| *value = (*value).min(1));
    }
    if is_swept {
        statuses.clear();
    }
    // Which of several that do the same it was is chance.
    let flags = hosts.iter().zip(case.hosts).map(|(host, does)| {
        let prefix = format!("{name}::{host}::health_flags::");
        let flags = clusters.lines().find_map(|line| line.strip_prefix(&prefix)).unwrap_or("no such host");
        format!("{does:?} {flags}")
    });
    let mut flags: Vec<String> = flags.collect();
    flags.sort();
    Ok(Facts { statuses, stats, flags, events })
}

/// Those of `cluster` once there are `count` of them.
async fn events(
    proxy: &Proxy,
    (cluster, case): (&str, &Case),
    hosts: &[SocketAddr],
    count: usize,
    is_swept: bool,
) -> Result<Vec<String>> {
    let path = proxy.dir().join("events.log");
    let own = || -> Vec<Value> {
        let all = whole_lines(&path).into_iter().filter_map(|line| serde_json::from_str::<Value>(&line).ok());
        all.filter(|event| event["cluster_name"] == cluster).collect()
    };
    let awaited = format!("{count} events");
    let all = async || Some(own()).filter(|own| own.len() >= count);
    let mut events = Vec::new();
    for mut event in eventually(&awaited, SOON, all).await? {
        ensure!(event["timestamp"].as_str().is_some_and(|time| time.ends_with('Z')), "{event}");
        let names: Vec<String> =
            event.as_object().into_iter().flat_map(|event| event.keys().cloned()).collect();
        let host = hosts.iter().position(|host| event["upstream_url"] == host.to_string());
        event["timestamp"] = Value::Null;
        event["upstream_url"] = format!("{:?}", host.map(|host| case.hosts[host])).into();
        if is_swept && let Some(rates) = event.get_mut("eject_success_rate_event") {
            *rates = Value::Null;
        }
        events.push(format!("{names:?} {event}"));
    }
    // Who of several was first is chance.
    events.sort();
    if is_swept {
        events.dedup();
    }
    Ok(events)
}

async fn run(binary: &Binary, hosts: &Hosts) -> Result<Vec<Facts>> {
    let routes: String = CASES
        .iter()
        .enumerate()
        .map(|(number, case)| {
            let comma = if case.route.is_empty() { "" } else { ", " };
            format!("- match: {{path: /c{number}}}\n  route: {{cluster: c{number}{comma}{}}}\n", case.route)
        })
        .collect();
    let addresses: Vec<Vec<SocketAddr>> = CASES.iter().map(|case| hosts.of(case)).collect();
    let clusters: Vec<String> = CASES
        .iter()
        .zip(&addresses)
        .enumerate()
        .map(|(number, (case, hosts))| cluster(number, case, hosts))
        .collect();
    let rest = "cluster_manager: {outlier_detection: {event_log_path: \"{{dir}}/events.log\"}}\nlayered_runtime: {layers: [{name: admin, admin_layer: {}}]}\n";
    let text = bootstrap(&[HttpListener::new("http", &routes).yaml()], &clusters, rest);
    let proxy = Proxy::start(binary, &text).await?;
    let mut all = Vec::new();
    for (number, (case, hosts)) in CASES.iter().zip(&addresses).enumerate() {
        all.push(facts(&proxy, number, case, hosts).await.with_context(|| case.name)?);
    }
    proxy.stop().await?;
    Ok(all)
}

#[expect(clippy::print_stdout, reason = "SHOW asks for it")]
pub async fn compare(reference: &Binary, subject: &Binary) -> Result<()> {
    let hosts = Hosts::start().await?;
    let (wanted, found) = tokio::try_join!(run(reference, &hosts), run(subject, &hosts))?;
    let mut differences = String::new();
    for ((case, wanted), found) in CASES.iter().zip(&wanted).zip(&found) {
        if std::env::var_os("SHOW").is_some() {
            println!("{}: {wanted:#?}", case.name);
        }
        if wanted != found {
            let _ = writeln!(differences, "{}: Envoy {wanted:#?}, here {found:#?}", case.name);
        }
    }
    ensure!(differences.is_empty(), "{differences}");
    Ok(())
}
