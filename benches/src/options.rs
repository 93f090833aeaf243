//! What to measure, and how long.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::peers::Peer;

/// One thing that is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Measure {
    /// HTTP/1 small GET, 64 connections.
    H1,
    /// The same with 20 request headers, four header mutations and an access log.
    H1Rich,
    /// HTTP/2 both ways, 8 connections of 32 streams.
    H2,
    /// HTTP/2 both ways, 64 connections of one stream.
    H2Wide,
    /// HTTP/2 from clients, HTTP/1 to upstreams, 64 connections of one stream.
    H2ToH1,
    /// HTTP/1 from clients, HTTP/2 to upstreams, 64 connections.
    H1ToH2,
    /// TCP proxy, small HTTP/1 requests through it.
    Tcp,
    /// HTTP/1, bodies of 1 MiB, 8 connections.
    Big,
    /// TCP proxy, bodies of 1 MiB, 8 connections.
    TcpBig,
    /// Latency at a rate that does not depend on the answers.
    Tail,
    /// What a CPU second is worth with two workers, against one.
    Workers,
    /// Memory after the start, and the time to ready.
    Start,
    /// Memory per idle HTTP/1 connection.
    Idle,
    /// Memory per idle HTTP/2 connection.
    IdleH2,
    /// Memory per static cluster, and the time to ready.
    Clusters,
    /// Two sidecars with mutual TLS between them: HTTP/1 small GET, 64 connections.
    Mtls,
    /// The same over HTTP/2, 64 connections of one stream.
    MtlsH2,
    /// The same over HTTP/1 with one connection: how long a request takes.
    MtlsOne,
    /// The same over HTTP/1 with bodies of 1 MiB, 8 connections.
    MtlsBig,
    /// Handshakes with a key of ECDSA.
    Handshakes,
    /// Handshakes with a key of RSA.
    HandshakesRsa,
    /// Handshakes with a key of ECDSA on each side.
    HandshakesMtls,
    /// Memory per idle connection with mutual TLS.
    IdleMtls,
    /// What a request past 64 policies costs, against one past none.
    Policies,
    /// What a request costs whose route would retry, against one whose route would not.
    Retries,
    /// What a request costs that a local rate limit lets pass, against none.
    LocalLimit,
    /// What a request costs that a rate limit service lets pass, against none.
    GlobalLimit,
    /// Connections that the kernel redirects.
    Redirected,
    /// From the arrival of new endpoints to the first request that reaches them.
    Endpoints,
    /// The same where all 10,000 hosts of a cluster move.
    Hosts,
    /// The same where they are balanced by Maglev's table.
    Maglev,
    /// Latency where one host of ten is slow.
    SlowHost,
}

impl Measure {
    /// What a load generator is let loose on.
    pub(crate) const LOADS: [Self; 9] = [
        Self::H1,
        Self::H1Rich,
        Self::H2,
        Self::H2Wide,
        Self::H2ToH1,
        Self::H1ToH2,
        Self::Tcp,
        Self::Big,
        Self::TcpBig,
    ];
    pub(crate) const ALL: [Self; 32] = [
        Self::H1,
        Self::H1Rich,
        Self::H2,
        Self::H2Wide,
        Self::H2ToH1,
        Self::H1ToH2,
        Self::Tcp,
        Self::Big,
        Self::TcpBig,
        Self::Tail,
        Self::Workers,
        Self::Start,
        Self::Idle,
        Self::IdleH2,
        Self::Clusters,
        Self::Endpoints,
        Self::Hosts,
        Self::Maglev,
        Self::SlowHost,
        Self::Mtls,
        Self::MtlsH2,
        Self::MtlsOne,
        Self::MtlsBig,
        Self::Handshakes,
        Self::HandshakesRsa,
        Self::HandshakesMtls,
        Self::IdleMtls,
        Self::Policies,
        Self::Retries,
        Self::LocalLimit,
        Self::GlobalLimit,
        Self::Redirected,
    ];
    /// What is measured on two sidecars side by side.
    pub(crate) const MESH: [Self; 11] = [
        Self::Mtls,
        Self::MtlsH2,
        Self::MtlsOne,
        Self::MtlsBig,
        Self::Handshakes,
        Self::HandshakesRsa,
        Self::HandshakesMtls,
        Self::Policies,
        Self::Retries,
        Self::LocalLimit,
        Self::GlobalLimit,
    ];
    /// What one listener has and another has not.
    pub(crate) const FEATURES: [Self; 4] =
        [Self::Policies, Self::Retries, Self::LocalLimit, Self::GlobalLimit];

    /// As `--only` takes it.
    pub(crate) fn name(self) -> &'static str {
        self.texts().0
    }

    /// As the table says it, with its unit.
    pub(crate) fn title(self) -> &'static str {
        self.texts().1
    }

    fn texts(self) -> (&'static str, &'static str) {
        match self {
            Self::H1 => ("h1", "HTTP/1 small GET, 64 connections: CPU µs per request"),
            Self::H1Rich => (
                "h1rich",
                "HTTP/1 with 20 headers, 4 header mutations, JSON access log to a file: CPU µs per request",
            ),
            Self::H2 => ("h2", "HTTP/2 small GET, 8 x 32 streams: CPU µs per request"),
            Self::H2Wide => ("h2wide", "HTTP/2 small GET, 64 x 1 streams: CPU µs per request"),
            Self::H2ToH1 => ("h2toh1", "HTTP/2 to HTTP/1 upstream, 64 x 1 streams: CPU µs per request"),
            Self::H1ToH2 => ("h1toh2", "HTTP/1 to HTTP/2 upstream, 64 connections: CPU µs per request"),
            Self::Tcp => ("tcp", "TCP proxy, small HTTP/1 GET, 64 connections: CPU µs per request"),
            Self::Big => ("big", "HTTP/1, 1 MiB bodies, 8 connections: CPU µs per request"),
            Self::TcpBig => ("tcpbig", "TCP proxy, 1 MiB bodies, 8 connections: CPU µs per request"),
            Self::Tail => {
                ("tail", "HTTP/1 at 60 % of Envoy's saturation rate, open loop: latency, 99th percentile, ms")
            }
            Self::Workers => ("workers", "Requests per CPU second with 2 workers, against 1 worker"),
            Self::Start => ("start", "Memory after the start: MiB"),
            Self::Idle => ("idle", "Memory per idle HTTP/1 connection: KiB"),
            Self::IdleH2 => ("idleh2", "Memory per idle HTTP/2 connection: KiB"),
            Self::Clusters => ("clusters", "Memory per static cluster: KiB"),
            Self::Mtls => {
                ("mtls", "Two sidecars, mTLS between, HTTP/1 small GET, 64 connections: CPU µs per request")
            }
            Self::MtlsH2 => {
                ("mtlsh2", "Two sidecars, mTLS between, HTTP/2 small GET, 64 x 1 streams: CPU µs per request")
            }
            Self::MtlsOne => {
                ("mtlsone", "Two sidecars, mTLS between, HTTP/1, one connection: latency, median, ms")
            }
            Self::MtlsBig => (
                "mtlsbig",
                "Two sidecars, mTLS between, HTTP/1, 1 MiB bodies, 8 connections: CPU µs per request",
            ),
            Self::Handshakes => {
                ("handshakes", "TLS 1.3 connections per CPU second, key of ECDSA P-256: full")
            }
            Self::HandshakesRsa => {
                ("handshakesrsa", "TLS 1.3 connections per CPU second, key of RSA 2048: full")
            }
            Self::HandshakesMtls => {
                ("handshakesmtls", "mTLS 1.3 connections per CPU second, keys of ECDSA P-256: full")
            }
            Self::IdleMtls => ("idlemtls", "Memory per idle HTTP/1 connection with mTLS: KiB"),
            Self::Policies => ("policies", "HTTP/1 small GET past 64 RBAC policies: CPU against none"),
            Self::Retries => ("retries", "HTTP/1 small GET with retries that none needs: CPU against none"),
            Self::LocalLimit => ("locallimit", "HTTP/1 small GET past a local rate limit: CPU against none"),
            Self::GlobalLimit => {
                ("globallimit", "HTTP/1 small GET past a rate limit service: CPU against none")
            }
            Self::Hosts => {
                ("hosts", "EDS update of all 10,000 hosts of a cluster, arrival to first routed request: ms")
            }
            Self::Maglev => ("maglev", "The same with Maglev: ms"),
            Self::SlowHost => (
                "slowhost",
                "One host of ten answers after 50 ms, least request, open loop: latency, 99th percentile, ms",
            ),
            Self::Redirected => {
                ("redirected", "TCP proxy, connections that iptables redirects: CPU µs per connection")
            }
            Self::Endpoints => {
                ("endpoints", "One EDS update among many clusters, arrival to first routed request: ms")
            }
        }
    }
}

/// A number that belongs to a measure, in the order of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Part {
    /// What the title says.
    Main,
    /// The part of the CPU time that was spent in user mode.
    User,
    /// Requests per second.
    Rate,
    /// The same of sessions that are resumed.
    Resumed,
    /// Median latency.
    Median,
    /// 99th percentile of latency.
    Tail,
    /// CPU time per request, where that is not the main number.
    Cpu,
    /// Until `/ready` answers 200, in milliseconds.
    Ready,
    /// CPU time of the whole, in milliseconds.
    Work,
    /// How many clusters there were.
    Count,
}

impl Part {
    pub(crate) const ALL: [Self; 10] = [
        Self::Main,
        Self::User,
        Self::Resumed,
        Self::Rate,
        Self::Median,
        Self::Tail,
        Self::Cpu,
        Self::Ready,
        Self::Work,
        Self::Count,
    ];

    /// As the results name it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Main => "value",
            Self::User => "of it in user mode",
            Self::Resumed => "resumed",
            Self::Rate => "requests per second",
            Self::Median => "latency, median, ms",
            Self::Tail => "latency, 99th percentile, ms",
            Self::Cpu => "CPU µs per request",
            Self::Ready => "ms to ready",
            Self::Work => "CPU ms",
            Self::Count => "clusters",
        }
    }
}

/// The command line.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    only: Vec<Measure>,
    pub(crate) peers: Vec<Peer>,
    pub(crate) quick: bool,
    pub(crate) rounds: usize,
    pub(crate) seconds: u32,
    /// Requests per second of the open loop, if not 60 % of what saturates Envoy.
    pub(crate) rate: Option<f64>,
    pub(crate) outrigger: PathBuf,
    pub(crate) results: PathBuf,
    /// What is not measured stays as it was in the results.
    pub(crate) keep: bool,
}

impl Options {
    /// Parses the arguments after the program's name.
    pub(crate) fn from_args(args: impl Iterator<Item = String>) -> Result<Self> {
        let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
        let mut options = Self {
            only: Measure::ALL.to_vec(),
            peers: Peer::ALL.to_vec(),
            quick: false,
            rounds: 5,
            seconds: 2,
            rate: None,
            outrigger: root.join("../target/shipped/outrigger"),
            results: root.join("results"),
            keep: false,
        };
        let mut args = args;
        while let Some(arg) = args.next() {
            let mut value = || args.next().with_context(|| format!("{arg} needs a value"));
            match arg.as_str() {
                "--quick" => (options.quick, options.rounds, options.seconds) = (true, 3, 1),
                "--keep" => options.keep = true,
                "--rounds" => options.rounds = value()?.parse()?,
                "--seconds" => options.seconds = value()?.parse()?,
                "--rate" => options.rate = Some(value()?.parse()?),
                "--outrigger" => options.outrigger = value()?.into(),
                "--results" => options.results = value()?.into(),
                "--only" => options.only = named(&value()?, &Measure::ALL, Measure::name)?,
                "--peers" => options.peers = named(&value()?, &Peer::ALL, Peer::name)?,
                other => bail!("{other}: unknown; see the head of benches/src/main.rs"),
            }
        }
        Ok(options)
    }

    /// Whether that is to be measured.
    pub(crate) fn wants(&self, measure: Measure) -> bool {
        self.only.contains(&measure)
    }

    /// How many clusters many are.
    pub(crate) fn many_clusters(&self) -> usize {
        if self.quick { 1_000 } else { 5_000 }
    }

    /// How often what takes whole processes is repeated.
    pub(crate) fn starts(&self) -> usize {
        if self.quick { 1 } else { 3 }
    }
}

fn named<T: Copy>(list: &str, all: &[T], name: fn(T) -> &'static str) -> Result<Vec<T>> {
    list.split(',')
        .map(|word| {
            all.iter()
                .copied()
                .find(|one| name(*one) == word)
                .with_context(|| format!("{word}: no such thing"))
        })
        .collect()
}
