//! Outlier detection: which hosts are ejected when, what is counted, what `/clusters` and the event log say.

mod cases;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use integration::client::Client;
use integration::config::{HttpListener, bootstrap};
use integration::expect::{SOON, eventually, whole_lines};
use integration::ports::Refusing;
use integration::process::{Binary, Proxy};
use integration::upstream::{Reply, Step, Upstream};
use serde_json::Value;

use self::Does::{Bad, Degraded, Error, Gateway, Grpc, Half, Hang, HangUp, Refuse, Well};
use self::cases::CASES;

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
    /// Fails every other request.
    Half,
}

/// What a case waits for after its requests.
#[derive(Clone, Copy)]
enum Then {
    Nothing,
    /// This statistic of the cluster's outlier detection is at least so much.
    Until(&'static str, i64),
    /// So many are ejected, and then none.
    Back(i64),
    /// As before, so often: and how many whole [`TURN`]s each ejection lasts.
    Again(i64),
    /// All hosts passed two more checks.
    Checked,
}

/// A base ejection time that is long enough to tell one from two of them.
const TURN: Duration = Duration::from_millis(700);

struct Case {
    name: &'static str,
    /// Fields of `outlier_detection`.
    detection: &'static str,
    /// Fields of the route's action.
    route: &'static str,
    /// Which answers are failures (`error_matcher`), if that is said.
    errors: &'static str,
    /// Keys of the runtime and their values, which hold during the case.
    runtime: &'static [(&'static str, &'static str)],
    /// Whether checks of the hosts pass all the time.
    checked: bool,
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
            route: "",
            errors: "",
            runtime: &[],
            checked: false,
            grpc: true,
            hosts,
            rounds: 12,
            then: Then::Nothing,
        }
    }

    const fn runtime(mut self, runtime: &'static [(&'static str, &'static str)]) -> Self {
        self.runtime = runtime;
        self
    }

    const fn checked(mut self) -> Self {
        self.checked = true;
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

/// A host of each kind that answers; those that refuse are ports that nobody listens on.
struct Hosts {
    listening: Vec<(Does, Upstream)>,
    refusing: Vec<Refusing>,
}

/// How often one kind may be in a cluster.
const OF_A_KIND: usize = 4;
/// How often a host may fail that fails every other request.
const HALVES: usize = 1000;

fn error() -> Reply {
    Reply::raw("HTTP/1.1 500 X\r\ncontent-length: 0\r\n\r\n")
}

fn well() -> Reply {
    Reply::raw("HTTP/1.1 200 OK\r\ngrpc-status: 0\r\ncontent-length: 0\r\n\r\n")
}

impl Hosts {
    async fn start() -> Result<Self> {
        let mut listening = Vec::new();
        for does in [Well, Error, Gateway, Grpc, HangUp, Hang, Degraded, Bad, Half] {
            for _ in 0..OF_A_KIND {
                let upstream = Upstream::start().await?;
                if does == Half {
                    upstream
                        .script((0..2 * HALVES).map(|number| if number % 2 == 0 { error() } else { well() }));
                    listening.push((does, upstream));
                    continue;
                }
                upstream.answer(match does {
                    Error => error(),
                    Gateway => Reply::raw("HTTP/1.1 503 X\r\ncontent-length: 0\r\n\r\n"),
                    Grpc => Reply::raw("HTTP/1.1 200 OK\r\ngrpc-status: 14\r\ncontent-length: 0\r\n\r\n"),
                    Degraded => {
                        Reply::raw("HTTP/1.1 200 OK\r\nx-envoy-degraded: 1\r\ncontent-length: 0\r\n\r\n")
                    }
                    Bad => Reply::raw("HTTP/1.1 200 OK\r\nx-field: bad\r\ncontent-length: 0\r\n\r\n"),
                    HangUp => Reply::steps([Step::Close]),
                    Hang => Reply::steps([Step::Stall]),
                    Well | Refuse | Half => well(),
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

/// Checks go to `checked`, which is always well.
fn cluster(number: usize, case: &Case, hosts: &[SocketAddr], checked: SocketAddr) -> String {
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
    if case.checked {
        yaml = yaml.replace("  load_assignment:", &format!("  {CHECKS}\n  load_assignment:"));
    }
    let check = match case.checked {
        true => format!("health_check_config: {{port_value: {}}}, ", checked.port()),
        false => String::new(),
    };
    for host in hosts {
        let _ = writeln!(
            yaml,
            "      - endpoint: {{{check}address: {{socket_address: {{address: 127.0.0.1, port_value: {}}}}}}}",
            host.port()
        );
    }
    yaml
}

const CHECKS: &str = "health_checks: [{timeout: 5s, interval: 0.3s, no_traffic_interval: 0.3s, unhealthy_threshold: 1, healthy_threshold: 1, http_health_check: {path: /}}]";

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

async fn facts(proxy: &Proxy, number: usize, case: &Case, hosts: &[SocketAddr]) -> Result<Facts> {
    let name = format!("c{number}");
    rule(proxy, case, |value| value).await?;
    if case.checked {
        let well = async || {
            let well = proxy.admin().stat(&format!("cluster.{name}.membership_healthy")).await.ok()?;
            (usize::try_from(well) == Ok(hosts.len())).then_some(())
        };
        eventually("all are checked", SOON, well).await?;
    }
    let mut statuses = BTreeMap::new();
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
        Then::Checked => {
            let checks = format!("cluster.{name}.health_check.success");
            let more = 3 * i64::try_from(hosts.len())?;
            let so_far = proxy.admin().stat(&checks).await?;
            reaches(checks, so_far + more).await?;
        }
        Then::Again(times) => {
            for time in 1..=times {
                reaches(stat("ejections_enforced_total"), time).await?;
                let since = Instant::now();
                let back =
                    async || (proxy.admin().stat(&stat("ejections_active")).await.ok()? == 0).then_some(());
                eventually("it is back", SOON, back).await?;
                let turns = u16::try_from(since.elapsed().as_millis() / TURN.as_millis())?;
                // (In the place of statuses, which are all the same.)
                statuses.insert(u16::try_from(time)?, usize::from(turns));
                if time < times {
                    client.send(format!("GET /{name} HTTP/1.1\r\nhost: a\r\n\r\n").as_bytes()).await?;
                    client.response("GET", SOON).await?;
                }
            }
        }
    }
    let mut stats =
        proxy.admin().stats(&format!("^cluster.{name}.(outlier_detection|membership_healthy)")).await?;
    let clusters = proxy.admin().get("/clusters").await?;
    let sum = |part: &str| -> i64 {
        stats.iter().filter(|(name, _)| name.contains(part)).map(|(_, value)| value).sum()
    };
    let back = match case.then {
        Then::Nothing | Then::Until(..) | Then::Checked => 0,
        Then::Back(_) => 1,
        Then::Again(times) => times,
    };
    let count = usize::try_from(sum("ejections_detected_") - sum("ejections_overflow") + back)?;
    // How many requests a sweep sees, and which one sees them, is left to chance.
    let is_swept = !matches!(case.then, Then::Nothing);
    let events = events(proxy, (&name, case), hosts, count, is_swept).await?;
    if matches!(case.then, Then::Until(..)) {
        stats.values_mut().for_each(|value| *value = (*value).min(1));
    }
    if is_swept && !matches!(case.then, Then::Again(_)) {
        statuses.clear();
    }
    rule(proxy, case, |_| "").await?;
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

/// Has the runtime say what the case wants it to, or nothing of it.
async fn rule(proxy: &Proxy, case: &Case, value: impl Fn(&'static str) -> &'static str) -> Result<()> {
    if case.runtime.is_empty() {
        return Ok(());
    }
    let pair = |(key, set): &(&'static str, &'static str)| format!("outlier_detection.{key}={}", value(set));
    let pairs: Vec<String> = case.runtime.iter().map(pair).collect();
    let answer = proxy.admin().request("POST", &format!("/runtime_modify?{}", pairs.join("&"))).await?;
    ensure!(answer.status == 200, "{}", answer.body);
    Ok(())
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
    let checked = Upstream::start().await?;
    checked.answer(well());
    let clusters: Vec<String> = CASES
        .iter()
        .zip(&addresses)
        .enumerate()
        .map(|(number, (case, hosts))| cluster(number, case, hosts, checked.addr()))
        .collect();
    let rest = "layered_runtime: {layers: [{name: a, admin_layer: {}}]}\ncluster_manager: {outlier_detection: {event_log_path: \"{{dir}}/events.log\"}}\n";
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
    let (one, other) = tokio::try_join!(Hosts::start(), Hosts::start())?;
    let (wanted, found) = tokio::try_join!(run(reference, &one), run(subject, &other))?;
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
