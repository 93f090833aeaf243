//! Active health checks: what hosts are asked, who gets traffic after which answers, what is counted, what `/clusters` and the event
//! log say.
//!
//! Checks go to ports of their own (`health_check_config.port_value`), where each host takes its answers from a script and then answers
//! no more: from then on nothing changes, whatever the clock does.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use integration::client::Client;
use integration::config::{H2_CLUSTER, HttpListener, bootstrap, indent};
use integration::expect::{SOON, eventually, whole_lines};
use integration::process::{Binary, Proxy};
use integration::upstream::h2::{H2Reply, H2Upstream};
use integration::upstream::{Received, Reply, Step, Upstream};
use serde_json::Value;
use tokio::net::TcpSocket;

/// How a host answers one check.
#[derive(Clone, Copy, Debug)]
enum Says {
    Status(u16),
    /// 200 with this header.
    Header(&'static str),
    /// 503 with `x-envoy-immediate-health-check-fail`.
    Immediate,
    Body(&'static str),
    /// In pieces, the last of which ends the connection.
    Closing,
    HangUp,
    Nothing,
    /// Over gRPC: this serving status, and this `grpc-status`.
    Grpc(u8, &'static str),
    /// Over gRPC: nothing but a head with this `grpc-status`.
    GrpcOnly(&'static str),
    Reset,
}

/// Who is checked.
#[derive(Clone, Copy, Debug)]
enum Host {
    Http1(&'static [Says]),
    Http2(&'static [Says]),
    /// Nobody listens where checks go.
    Refuses,
    /// It is not checked.
    Unchecked,
}

struct Case {
    name: &'static str,
    /// Fields of the health check.
    check: &'static str,
    hosts: &'static [Host],
    /// Fields of the cluster.
    cluster: &'static str,
    /// Fields of `health_check_config`.
    target: &'static str,
    /// How many results there are in the end.
    results: i64,
    /// How many events are written.
    events: usize,
    /// What hosts add to answers to requests.
    traffic: &'static str,
    /// A statistic that differs on purpose.
    differs: Option<&'static str>,
}

impl Case {
    const fn new(name: &'static str, check: &'static str, hosts: &'static [Host]) -> Self {
        Self {
            name,
            check,
            hosts,
            cluster: "",
            target: "",
            results: 1,
            events: 1,
            traffic: "",
            differs: None,
        }
    }

    const fn results(mut self, results: i64) -> Self {
        self.results = results;
        self
    }

    const fn events(mut self, events: usize) -> Self {
        self.events = events;
        self
    }

    const fn cluster(mut self, cluster: &'static str) -> Self {
        self.cluster = cluster;
        self
    }

    const fn target(mut self, target: &'static str) -> Self {
        self.target = target;
        self
    }

    const fn traffic(mut self, traffic: &'static str) -> Self {
        self.traffic = traffic;
        self
    }
}

impl Case {
    const fn differs(mut self, stat: &'static str) -> Self {
        self.differs = Some(stat);
        self
    }
}

use Host::{Http1, Http2, Refuses, Unchecked};
use Says::{Body, Closing, Grpc, GrpcOnly, HangUp, Header, Immediate, Nothing, Reset, Status};

const HTTP: &str = "http_health_check: {path: /check}";
const OK: Says = Status(200);
const BAD: Says = Status(500);

const CASES: &[Case] = &[
    Case::new("one success is enough at first", HTTP, &[Http1(&[OK])]),
    Case::new("a bad answer is believed at once", HTTP, &[Http1(&[OK, BAD]), Http1(&[OK])])
        .results(3)
        .events(3),
    Case::new("bad from the start", HTTP, &[Http1(&[BAD])]),
    Case::new("all bad: panic", HTTP, &[Http1(&[BAD]), Http1(&[BAD])]).results(2).events(2),
    Case::new("all bad, without panic", HTTP, &[Http1(&[BAD])])
        .cluster("common_lb_config: {healthy_panic_threshold: {value: 0}, update_merge_window: 0s}"),
    Case::new("well again after two", HTTP, &[Http1(&[OK, BAD, OK, OK])]).results(4).events(3),
    Case::new("not well again after one", HTTP, &[Http1(&[OK, BAD, OK]), Http1(&[OK])]).results(4).events(3),
    Case::new("hangs up once", HTTP, &[Http1(&[OK, HangUp, OK])]).results(3),
    Case::new("hangs up too often", HTTP, &[Http1(&[OK, HangUp, HangUp, HangUp])]).results(4).events(2),
    Case::new("nobody listens", "no_traffic_interval: 60s, http_health_check: {path: /check}", &[Refuses, Http1(&[OK])]).results(2).events(2),
    Case::new(
        "no answer in time",
        "timeout: 0.2s, unhealthy_threshold: 1, no_traffic_interval: 60s, no_traffic_healthy_interval: 0.01s, http_health_check: {path: /check}",
        &[Http1(&[OK, Nothing])],
    )
    .results(2)
    .events(2),
    Case::new(
        "no answer in time at first",
        "timeout: 0.2s, no_traffic_interval: 60s, http_health_check: {path: /check}",
        &[Http1(&[Nothing])],
    ),
    Case::new("degraded", HTTP, &[Http1(&[Header("x-envoy-degraded: ")]), Http1(&[OK])]).results(2).events(3),
    // (Envoy goes on counting such a host.)
    Case::new("degraded no longer", HTTP, &[Http1(&[Header("x-envoy-degraded: "), OK])])
        .results(2)
        .events(3)
        .differs("health_check.degraded"),
    Case::new("only degraded ones", HTTP, &[Http1(&[Header("x-envoy-degraded: ")])]).events(2),
    Case::new("checks fail at once", HTTP, &[Http1(&[OK, Immediate]), Http1(&[OK])]).results(3).events(3),
    Case::new("checks fail at once and are well again", HTTP, &[Http1(&[OK, Immediate, OK, OK])])
        .results(4)
        .events(3),
    Case::new(
        "statuses that are expected",
        "http_health_check: {path: /check, expected_statuses: [{start: 200, end: 201}, {start: 500, end: 600}]}",
        &[Http1(&[BAD]), Http1(&[Status(404)])],
    )
    .results(2)
    .events(2),
    Case::new(
        "statuses that may be repeated",
        "http_health_check: {path: /check, retriable_statuses: [{start: 500, end: 501}]}",
        &[Http1(&[OK, BAD, BAD]), Http1(&[OK, BAD, BAD, BAD])],
    )
    .results(7)
    .events(3),
    Case::new(
        "only 204 is expected",
        "http_health_check: {path: /check, expected_statuses: [{start: 204, end: 205}]}",
        &[Http1(&[OK]), Http1(&[Status(204)])],
    )
    .results(2)
    .events(2),
    Case::new(
        "what the body must have",
        "http_health_check: {path: /check, receive: [{text: '6869'}, {binary: 'Lg=='}]}",
        &[Http1(&[Body("oh hi there.")]), Http1(&[Body(".hi")]), Http1(&[Body("")])],
    )
    .results(3)
    .events(3),
    Case::new(
        "within the buffer",
        "http_health_check: {path: /check, receive: [{text: '6869'}], response_buffer_size: 4}",
        &[Http1(&[Body("..hi")]), Http1(&[Body("...hi")])],
    )
    .results(2)
    .events(2),
    Case::new(
        "what service it is",
        "http_health_check: {path: /check, service_name_matcher: {prefix: loc}}",
        &[
            Http1(&[Header("x-envoy-upstream-healthchecked-cluster: local-a")]),
            Http1(&[Header("x-envoy-upstream-healthchecked-cluster: other")]),
            Http1(&[OK]),
        ],
    )
    .results(3)
    .events(3),
    Case::new(
        "method, host and headers",
        "http_health_check: {path: '/check?a=b', host: named, method: HEAD, request_headers_to_add: [{header: {key: x-a, value: 'b %UPSTREAM_HOST_NAME%'}}, {header: {key: user-agent, value: own}, append_action: OVERWRITE_IF_EXISTS_OR_ADD}]}",
        &[Http1(&[OK])],
    ),
    Case::new(
        "headers removed, a body sent",
        "http_health_check: {path: /check, method: POST, send: {text: '68656c6c6f'}, request_headers_to_remove: [user-agent]}",
        &[Http1(&[OK])],
    ),
    Case::new("a name of its own", HTTP, &[Http1(&[OK])]).target("hostname: of-host, "),
    Case::new("every answer on a fresh connection", "reuse_connection: false, http_health_check: {path: /check}", &[Http1(&[OK, OK, OK])])
        .results(3),
    Case::new("connections that end with their answer", HTTP, &[Http1(&[OK, Closing, OK])]).results(3),
    Case::new("a host that is not checked", HTTP, &[Unchecked, Http1(&[BAD])]),
    Case::new("HTTP/2", "http_health_check: {path: /check, codec_client_type: HTTP2}", &[Http2(&[OK, OK, BAD])])
        .results(3)
        .events(2),
    Case::new(
        "HTTP/2, fresh connections",
        "reuse_connection: false, http_health_check: {path: /check, codec_client_type: HTTP2}",
        &[Http2(&[OK, OK])],
    )
    .results(2),
    Case::new(
        "HTTP/2 streams that are reset",
        "http_health_check: {path: /check, codec_client_type: HTTP2}",
        &[Http2(&[OK, Reset, Reset, OK]), Http2(&[OK, Reset, Reset, Reset])],
    )
    .results(8)
    .events(3),
    Case::new("a connection is all", "no_traffic_interval: 60s, no_traffic_healthy_interval: 60s, tcp_health_check: {}", &[Http1(&[]), Refuses])
        .results(2)
        .events(2),
    // GET /p HTTP/1.1, and a 200 to it
    Case::new(
        "bytes there and back",
        "tcp_health_check: {send: {text: '474554202f7020485454502f312e310d0a0d0a'}, receive: [{text: '323030'}, {text: '6869'}]}",
        &[Http1(&[Body("hi"), Body("hi")])],
    )
    .results(2),
    Case::new(
        "bytes that do not come",
        "timeout: 0.2s, no_traffic_interval: 60s, tcp_health_check: {send: {text: '474554202f7020485454502f312e310d0a0d0a'}, receive: [{text: '6869'}]}",
        &[Http1(&[Body("ho")])],
    ),
    Case::new(
        "bytes and then the end",
        "no_traffic_interval: 60s, tcp_health_check: {send: {text: '474554202f7020485454502f312e310d0a0d0a'}, receive: [{text: '6869'}]}",
        &[Http1(&[HangUp])],
    ),
    Case::new("gRPC", "grpc_health_check: {}", &[Http2(&[Grpc(1, "0"), Grpc(1, "0"), Grpc(2, "0")])])
        .cluster(H2_CLUSTER)
        .results(3)
        .events(2),
    Case::new(
        "gRPC of a service",
        "grpc_health_check: {service_name: svc, authority: au, initial_metadata: [{header: {key: x-a, value: b}}]}",
        &[Http2(&[Grpc(1, "0")])],
    )
    .cluster(H2_CLUSTER),
    Case::new(
        "gRPC that fails",
        "grpc_health_check: {}",
        &[
            Http2(&[Grpc(1, "13")]),
            Http2(&[Grpc(0, "0")]),
            Http2(&[Grpc(3, "0")]),
            Http2(&[GrpcOnly("12")]),
            Http2(&[GrpcOnly("0")]),
            Http2(&[OK]),
            Http2(&[Status(503)]),
        ],
    )
    .cluster(H2_CLUSTER)
    .results(7)
    .events(7),
    Case::new("gRPC streams that are reset", "grpc_health_check: {}", &[Http2(&[Grpc(1, "0"), Reset, Grpc(1, "0")])])
        .cluster(H2_CLUSTER)
        .results(3),
    Case::new(
        "all checks are written down",
        "always_log_health_check_failures: true, always_log_health_check_success: true, http_health_check: {path: /check}",
        &[Http1(&[OK, OK, BAD, BAD, OK, OK])],
    )
    .results(6)
    .events(7),
    Case::new("an answer to a request says that checks fail", HTTP, &[Http1(&[OK]), Unchecked])
        .traffic("x-envoy-immediate-health-check-fail: true\r\n")
        .results(2)
        .events(2),
];

/// The hosts of one proxy.
struct Hosts(Vec<Vec<Served>>);

struct Served {
    traffic: Upstream,
    checks: Checked,
}

enum Checked {
    Http1(Upstream),
    Http2(H2Upstream),
    /// A port that is taken, so that nobody else listens there.
    Nowhere {
        _taken: TcpSocket,
        address: SocketAddr,
    },
}

impl Served {
    async fn start(case: &Case, number: usize, host: Host) -> Result<Self> {
        let traffic = Upstream::start().await?;
        let extra = case.traffic;
        traffic.answer(Reply::raw(format!("HTTP/1.1 200 OK\r\n{extra}content-length: 1\r\n\r\n{number}")));
        let checks = match host {
            Host::Http1(script) => {
                let upstream = Upstream::start().await?;
                upstream.script(script.iter().map(|says| says.http1()).chain([Nothing.http1()]));
                Checked::Http1(upstream)
            }
            Host::Http2(script) => {
                let upstream = H2Upstream::start().await?;
                upstream.script(script.iter().map(|says| says.http2()).chain([Nothing.http2()]));
                Checked::Http2(upstream)
            }
            Host::Refuses | Host::Unchecked => {
                let socket = TcpSocket::new_v4()?;
                socket.bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
                let address = socket.local_addr()?;
                Checked::Nowhere { _taken: socket, address }
            }
        };
        Ok(Self { traffic, checks })
    }

    fn check_port(&self) -> u16 {
        match &self.checks {
            Checked::Http1(upstream) => upstream.addr().port(),
            Checked::Http2(upstream) => upstream.addr().port(),
            Checked::Nowhere { address, .. } => address.port(),
        }
    }

    /// The first check and the number of connections.
    fn asked(&self) -> (Option<Received>, usize) {
        match &self.checks {
            Checked::Http1(upstream) => (upstream.received().first().cloned(), upstream.opened()),
            Checked::Http2(upstream) => (upstream.received().first().cloned(), upstream.opened()),
            Checked::Nowhere { .. } => (None, 0),
        }
    }
}

impl Says {
    fn http1(self) -> Reply {
        let ok = |fields: &str, body: &str| {
            Reply::raw(format!("HTTP/1.1 200 OK\r\n{fields}content-length: {}\r\n\r\n{body}", body.len()))
        };
        match self {
            // (A body would be one too much for HEAD.)
            Self::Status(status) => Reply::raw(format!("HTTP/1.1 {status} X\r\ncontent-length: 0\r\n\r\n")),
            Self::Header(header) => ok(&format!("{header}\r\n"), ""),
            Self::Immediate => Reply::raw(
                "HTTP/1.1 503 X\r\nx-envoy-immediate-health-check-fail: true\r\ncontent-length: 0\r\n\r\n",
            ),
            Self::Body(body) => ok("", body),
            Self::Closing => Reply::raw_then_close("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nx"),
            Self::HangUp | Self::Reset => Reply::steps([Step::Close]),
            Self::Nothing | Self::Grpc(..) | Self::GrpcOnly(_) => Reply::steps([Step::Stall]),
        }
    }

    fn http2(self) -> H2Reply {
        match self {
            Self::Status(status) => H2Reply::new(status, "x"),
            Self::Grpc(serving, status) => {
                let body = [0, 0, 0, 0, 2, 8, serving];
                let reply = H2Reply::new(200, "").field("content-type", "application/grpc");
                H2Reply { body: body.to_vec(), ..reply.trailer("grpc-status", status) }
            }
            Self::GrpcOnly(status) => {
                H2Reply::new(200, "").field("content-type", "application/grpc").field("grpc-status", status)
            }
            Self::Reset => H2Reply::refuse(2),
            Self::Header(_)
            | Self::Immediate
            | Self::Body(_)
            | Self::Closing
            | Self::HangUp
            | Self::Nothing => H2Reply::stall(),
        }
    }
}

fn cluster(number: usize, case: &Case, hosts: &[Served]) -> String {
    let default = |field: &str, value: &str| {
        if case.check.contains(field) { String::new() } else { format!("{field}: {value}, ") }
    };
    // What is sorted together shows late otherwise.
    let at_once = match case.cluster.contains("common_lb_config") {
        true => "",
        false => "common_lb_config: {update_merge_window: 0s}",
    };
    let mut yaml = format!(
        "- name: c{number}\n  connect_timeout: 1s\n  lb_policy: ROUND_ROBIN\n{}  health_checks:\n  - {{{}{}{}{}interval: 60s, healthy_threshold: 2, event_logger: [{{name: f, typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.health_check.event_sinks.file.v3.HealthCheckEventFileSink, event_log_path: \"{{{{dir}}}}/events.log\"}}}}], {}}}\n  load_assignment:\n    cluster_name: c{number}\n    endpoints:\n    - lb_endpoints:\n",
        indent(&format!("{}{at_once}", case.cluster), 2),
        default("timeout", "60s"),
        default("unhealthy_threshold", "3"),
        default("no_traffic_interval", "0.01s"),
        default("no_traffic_healthy_interval", "0.01s"),
        case.check,
    );
    for (host, served) in case.hosts.iter().zip(hosts) {
        let disabled = if matches!(host, Unchecked) { "disable_active_health_check: true, " } else { "" };
        let _ = writeln!(
            yaml,
            "      - endpoint: {{hostname: hh, address: {{socket_address: {{address: 127.0.0.1, port_value: {}}}}}, health_check_config: {{{}{disabled}port_value: {}}}}}",
            served.traffic.addr().port(),
            case.target,
            served.check_port(),
        );
    }
    yaml
}

/// What one proxy does in one case.
#[derive(Debug)]
struct Facts {
    stats: BTreeMap<String, i64>,
    /// What `/clusters` says of the health of each host.
    flags: Vec<String>,
    /// The first check of each host, and on how many connections they came.
    asked: Vec<String>,
    statuses: BTreeSet<u16>,
    /// Which hosts requests went to.
    served: BTreeSet<String>,
    events: Vec<String>,
}

impl Facts {
    fn parts(&self) -> [String; 6] {
        let Self { stats, flags, asked, statuses, served, events } = self;
        [
            format!("{stats:#?}"),
            format!("{flags:#?}"),
            format!("{asked:#?}"),
            format!("{statuses:?}"),
            format!("{served:?}"),
            format!("{events:#?}"),
        ]
    }
}

async fn facts(proxy: &Proxy, number: usize, case: &Case, hosts: &[Served]) -> Result<Facts> {
    let name = format!("c{number}");
    let is_passive = !case.traffic.is_empty();
    let settled = async |results: i64| {
        let done = async || {
            let stats = proxy.admin().stats(&format!("^cluster.{name}.health_check")).await.ok()?;
            let stat = |stat: &str| stats.get(&format!("cluster.{name}.health_check.{stat}")).copied();
            (stat("success")? + stat("failure")? >= results).then_some(())
        };
        eventually(&format!("{results} results"), SOON, done).await
    };
    settled(case.results - i64::from(is_passive)).await?;
    sorted(proxy, &name, hosts).await?;
    let mut client = Client::connect(proxy.listener("http")?).await?;
    let (mut statuses, mut served) = (BTreeSet::new(), BTreeSet::new());
    let requests = match case.cluster {
        // (Hosts answer requests in HTTP/1 only.)
        H2_CLUSTER => 0,
        _ if is_passive => case.hosts.len(),
        _ => 10,
    };
    for _ in 0..requests {
        client.send(format!("GET /{name} HTTP/1.1\r\nhost: a\r\n\r\n").as_bytes()).await?;
        let response = client.response("GET", SOON).await?;
        statuses.insert(response.head.status()?);
        if response.head.status()? == 200 {
            served.insert(String::from_utf8_lossy(&response.body).into_owned());
        }
    }
    settled(case.results).await?;
    // The last check of each has begun, and will not end.
    let asked = hosts.iter().map(|served| {
        let (first, connections) = served.asked();
        let first = first.map(|first| {
            let mut fields = first.fields;
            fields.sort();
            (first.line.replace(&served.check_port().to_string(), "PORT"), fields, first.body)
        });
        format!("{first:?} on {connections}")
    });
    let asked = asked.collect();
    let mut stats = proxy
        .admin()
        .stats(&format!(
            "^cluster.{name}.(health_check|membership|lb_healthy_panic|http[12]|upstream_cx_total)"
        ))
        .await?;
    // Whether the check that will not end has begun is chance.
    stats.retain(|name, value| *value != 0 && !name.ends_with(".attempt") && !name.contains(".http2."));
    let clusters = proxy.admin().get("/clusters").await?;
    let flags = flags(&clusters, &name, hosts);
    let events = events(proxy, &name, case, hosts).await?;
    Ok(Facts { stats, flags, asked, statuses, served, events })
}

/// Waits until the hosts are sorted by what checks found: a result is counted, and the host marked, before requests go by it.
async fn sorted(proxy: &Proxy, cluster: &str, hosts: &[Served]) -> Result<()> {
    let done = async || {
        let flags = flags(&proxy.admin().get("/clusters").await.ok()?, cluster, hosts);
        let stats = proxy.admin().stats(&format!("^cluster.{cluster}.membership")).await.ok()?;
        let is_counted = |stat: &str, is_one: fn(&String) -> bool| {
            let counted = stats.get(&format!("cluster.{cluster}.membership_{stat}"));
            counted.and_then(|count| usize::try_from(*count).ok())
                == Some(flags.iter().filter(|flags| is_one(flags)).count())
        };
        let is_sorted = is_counted("healthy", |flags| flags == "healthy")
            && is_counted("degraded", |flags| flags.contains("degraded") && !flags.contains("failed"));
        is_sorted.then_some(())
    };
    eventually("hosts sorted by their checks", SOON, done).await
}

/// What `/clusters` says of the health of each host.
fn flags(clusters: &str, cluster: &str, hosts: &[Served]) -> Vec<String> {
    let of = |host: &Served| {
        let prefix = format!("{cluster}::{}::health_flags::", host.traffic.addr());
        let flags = clusters.lines().find_map(|line| line.strip_prefix(&prefix));
        flags.unwrap_or("no such host").to_owned()
    };
    hosts.iter().map(of).collect()
}

/// The events of a cluster, those of each host in their order.
async fn events(proxy: &Proxy, cluster: &str, case: &Case, hosts: &[Served]) -> Result<Vec<String>> {
    let path = proxy.dir().join("events.log");
    let own = || -> Vec<Value> {
        let all = whole_lines(&path).into_iter().filter_map(|line| serde_json::from_str::<Value>(&line).ok());
        all.filter(|event| event["cluster_name"] == cluster).collect()
    };
    let all = async || Some(own()).filter(|own| own.len() >= case.events);
    let mut events: Vec<(Option<usize>, String)> = Vec::new();
    for mut event in eventually(&format!("{} events", case.events), SOON, all).await? {
        ensure!(event["timestamp"].as_str().is_some_and(|time| time.ends_with('Z')), "{event}");
        let port = event["host"]["socket_address"]["port_value"].as_u64();
        let host = hosts.iter().position(|host| Some(u64::from(host.traffic.addr().port())) == port);
        event["timestamp"] = Value::Null;
        event["host"]["socket_address"]["port_value"] = Value::Null;
        events.push((host, event.to_string()));
    }
    events.sort_by_key(|(host, _)| *host);
    Ok(events.into_iter().map(|(host, event)| format!("{host:?} {event}")).collect())
}

async fn run(binary: &Binary) -> Result<Vec<Facts>> {
    let mut hosts = Hosts(Vec::new());
    for case in CASES {
        let mut of_case = Vec::new();
        for (number, host) in case.hosts.iter().enumerate() {
            of_case.push(Served::start(case, number, *host).await?);
        }
        hosts.0.push(of_case);
    }
    let routes: String = (0..CASES.len())
        .map(|number| format!("- match: {{path: /c{number}}}\n  route: {{cluster: c{number}}}\n"))
        .collect();
    let clusters: Vec<String> = CASES
        .iter()
        .zip(&hosts.0)
        .enumerate()
        .map(|(number, (case, hosts))| cluster(number, case, hosts))
        .collect();
    let text = bootstrap(&[HttpListener::new("http", &routes).yaml()], &clusters, "");
    let proxy = Proxy::start(binary, &text).await?;
    let mut all = Vec::new();
    for (number, (case, hosts)) in CASES.iter().zip(&hosts.0).enumerate() {
        all.push(facts(&proxy, number, case, hosts).await.with_context(|| case.name)?);
    }
    proxy.stop().await?;
    Ok(all)
}

#[expect(clippy::print_stdout, reason = "SHOW asks for it")]
pub async fn compare(reference: &Binary, subject: &Binary) -> Result<()> {
    let (wanted, found) = tokio::try_join!(run(reference), run(subject))?;
    let mut differences = String::new();
    for (number, ((case, mut wanted), mut found)) in CASES.iter().zip(wanted).zip(found).enumerate() {
        if std::env::var_os("SHOW").is_some() {
            println!("{}: {wanted:#?}", case.name);
        }
        if let Some(stat) = case.differs {
            let stat = format!("cluster.c{number}.{stat}");
            if wanted.stats.remove(&stat) == found.stats.remove(&stat) {
                let _ = writeln!(differences, "{}: {stat} is the same", case.name);
            }
        }
        if wanted.events.len() != case.events {
            let _ = writeln!(differences, "{}: Envoy writes {} events", case.name, wanted.events.len());
        }
        for (wanted, found) in wanted.parts().iter().zip(found.parts()) {
            if *wanted != found {
                let _ = writeln!(differences, "{}: Envoy {wanted}, here {found}", case.name);
            }
        }
    }
    ensure!(differences.is_empty(), "{differences}");
    Ok(())
}
