//! What to measure, and how long.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::peers::Peer;

/// One thing that is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Measure {
    /// HTTP/1 small GET, 64 connections.
    H1,
    /// HTTP/2 both ways, 8 connections of 32 streams.
    H2,
    /// HTTP/2 both ways, 64 connections of one stream.
    H2Wide,
    /// TCP proxy, small HTTP/1 requests through it.
    Tcp,
    /// HTTP/1, bodies of 1 MiB, 8 connections.
    Big,
    /// TCP proxy, bodies of 1 MiB, 8 connections.
    TcpBig,
    /// Memory after the start.
    Start,
    /// Memory per idle HTTP/1 connection.
    Idle,
    /// Memory per static cluster, and the time to ready.
    Clusters,
}

impl Measure {
    pub(crate) const LOADS: [Self; 6] =
        [Self::H1, Self::H2, Self::H2Wide, Self::Tcp, Self::Big, Self::TcpBig];
    pub(crate) const ALL: [Self; 9] = [
        Self::H1,
        Self::H2,
        Self::H2Wide,
        Self::Tcp,
        Self::Big,
        Self::TcpBig,
        Self::Start,
        Self::Idle,
        Self::Clusters,
    ];

    /// As `--only` takes it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::H1 => "h1",
            Self::H2 => "h2",
            Self::H2Wide => "h2wide",
            Self::Tcp => "tcp",
            Self::Big => "big",
            Self::TcpBig => "tcpbig",
            Self::Start => "start",
            Self::Idle => "idle",
            Self::Clusters => "clusters",
        }
    }

    /// As the table says it, with its unit.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::H1 => "HTTP/1 small GET, 64 connections: CPU µs per request",
            Self::H2 => "HTTP/2 small GET, 8 x 32 streams: CPU µs per request",
            Self::H2Wide => "HTTP/2 small GET, 64 x 1 streams: CPU µs per request",
            Self::Tcp => "TCP proxy, small HTTP/1 GET, 64 connections: CPU µs per request",
            Self::Big => "HTTP/1, 1 MiB bodies, 8 connections: CPU µs per request",
            Self::TcpBig => "TCP proxy, 1 MiB bodies, 8 connections: CPU µs per request",
            Self::Start => "Memory after the start: MiB",
            Self::Idle => "Memory per idle HTTP/1 connection: KiB",
            Self::Clusters => "Memory per static cluster: KiB",
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
    pub(crate) outrigger: PathBuf,
    pub(crate) results: PathBuf,
}

impl Options {
    /// Parses the arguments after the program's name.
    pub(crate) fn from_args(args: impl Iterator<Item = String>) -> Result<Self> {
        let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
        let mut options = Self {
            only: Measure::ALL.to_vec(),
            peers: Peer::ALL.to_vec(),
            quick: false,
            rounds: 7,
            seconds: 4,
            outrigger: root.join("../target/release/outrigger"),
            results: root.join("results"),
        };
        let mut args = args;
        while let Some(arg) = args.next() {
            let mut value = || args.next().with_context(|| format!("{arg} needs a value"));
            match arg.as_str() {
                "--quick" => (options.quick, options.rounds, options.seconds) = (true, 3, 1),
                "--rounds" => options.rounds = value()?.parse()?,
                "--seconds" => options.seconds = value()?.parse()?,
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
