//! The lines of statsd, plain and with tags, and the datagrams that they go in.
//!
//! A counter is what it counted since the last flush (`|c`), a gauge its level (`|g`). What histograms recorded since the last flush
//! follows as timers (`|ms`), fractions as histograms (`|h`): the values that were recorded, of which two digits are known, and where
//! one was recorded very often, so many of it with the rate that makes up for the rest (`|@0.1`).
//! Nothing waits for who listens: what the socket does not take is lost, as datagrams are.
//! Source: Envoy `source/extensions/stat_sinks/common/statsd/statsd.cc`; github.com/statsd/statsd `docs/metric_types.md`.

use std::fmt::Write as _;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixDatagram};
use std::time::SystemTime;

use proxy_core::address::Address;
use proxy_core::config::{BuildCx, BuildEnv, Rejected};
use proxy_core::extension::stats_sink::{StatsSink, name_and_tags};
use proxy_core::stats::{Bins, HistogramView, Metric, Settings, Unit, Value, bin_bounds};
use xds_api::envoy::config::core::v3 as core;
use xds_api::envoy::config::core::v3::socket_address::Protocol;

use super::dialects::Wanted;

/// What every name begins with where nothing is said.
const PREFIX: &str = "envoy";

/// More lines than this never stand for one value of a histogram.
const MOST_LINES: u64 = 16;

/// How tags are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tags {
    /// Not at all: they stay in the name.
    InName,
    /// `name:1|c|#tag:value,tag:value`
    AfterValue,
    /// `name;tag=value;tag=value:1|c`
    AfterName,
}

/// A sink that writes lines into datagrams.
pub(super) struct Statsd {
    prefix: String,
    tags: Tags,
    /// Most bytes of a datagram with more than one line.
    datagram: usize,
    socket: Datagrams,
    counters: Lines,
    gauges: Lines,
    timers: Lines,
}

impl Statsd {
    /// The sink that is wanted.
    pub(super) fn build(wanted: Wanted, tags: Tags, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let Wanted { address, prefix, datagram } = wanted;
        let socket = cx.at("address", |cx| {
            let Some(address) = address else { return Err(cx.reject("value is required")) };
            let address = build_address(address, cx)?;
            Datagrams::to(&address).map_err(|error| cx.reject(format!("no socket: {error}")))
        })?;
        let prefix = if prefix.is_empty() { PREFIX.to_owned() } else { prefix };
        let datagram = datagram.map_or(0, |most| usize::try_from(most).unwrap_or(usize::MAX));
        let [counters, gauges, timers] = std::array::from_fn(|_| Lines::default());
        Ok(Self { prefix, tags, datagram, socket, counters, gauges, timers })
    }

    /// What stands before and behind the value of a line.
    fn frame(&self, metric: &Metric<'_>, settings: &Settings) -> (String, String) {
        let Self { prefix, tags, .. } = self;
        if *tags == Tags::InName {
            return (format!("{prefix}.{}", metric.name), String::new());
        }
        let (name, all) = name_and_tags(metric, settings);
        let join = |assign: &str, separator: &str| {
            let all: Vec<_> = all.iter().map(|(tag, value)| format!("{tag}{assign}{value}")).collect();
            all.join(separator)
        };
        match tags {
            _ if all.is_empty() => (format!("{prefix}.{name}"), String::new()),
            Tags::AfterName => (format!("{prefix}.{name};{}", join("=", ";")), String::new()),
            Tags::AfterValue | Tags::InName => (format!("{prefix}.{name}"), format!("|#{}", join(":", ","))),
        }
    }
}

impl StatsSink for Statsd {
    fn take(&mut self, metric: &Metric<'_>, fresh: u64, settings: &Settings) {
        let (before, behind) = match metric.value {
            Value::Text(_) => return,
            Value::Histogram(view) if view.interval.is_empty() => return,
            Value::Counter(_) | Value::Gauge(_) | Value::Histogram(_) => self.frame(metric, settings),
        };
        match metric.value {
            Value::Counter(_) => self.counters.add(&before, fresh, "|c", &behind),
            Value::Gauge(level) => self.gauges.add(&before, level, "|g", &behind),
            Value::Histogram(view) => add_timers(&mut self.timers, &before, view, &behind),
            Value::Text(_) => {}
        }
    }

    fn send(&mut self, _time: SystemTime, _env: &BuildEnv) {
        let Self { datagram, socket, counters, gauges, timers, .. } = self;
        let mut packer = Packer { most: *datagram, packed: String::new(), socket };
        for lines in [&*timers, &*counters, &*gauges] {
            for line in lines.0.lines() {
                packer.pack(line);
            }
        }
        packer.flush();
        for lines in [timers, counters, gauges] {
            lines.0.clear();
        }
    }
}

/// Lines that wait for the end of a flush.
#[derive(Default)]
struct Lines(String);

impl Lines {
    fn add(&mut self, before: &str, value: impl std::fmt::Display, kind: &str, behind: &str) {
        let _ = writeln!(self.0, "{before}:{value}{kind}{behind}");
    }
}

fn add_timers(lines: &mut Lines, before: &str, view: HistogramView<'_>, behind: &str) {
    let interval: &Bins = view.interval;
    for (index, count) in interval.iter() {
        let (kind, value) = match view.unit {
            Unit::Percent => ("|h", fraction(index, view.scale())),
            Unit::Bytes | Unit::Microseconds | Unit::Milliseconds | Unit::Unspecified => {
                ("|ms", middle(index).to_string())
            }
        };
        let repeated = count.min(MOST_LINES);
        let rate = if repeated < count { format!("|@{}", ratio(repeated, count)) } else { String::new() };
        for _ in 0..repeated {
            lines.add(before, &value, &format!("{kind}{rate}"), behind);
        }
    }
}

/// The whole number that stands for a bin: the one value of a narrow one, the middle of a wide one.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "bounds of bins are whole where they are wide"
)]
fn middle(index: u16) -> u64 {
    let (lower, width) = bin_bounds(index);
    (lower.round() as u64).saturating_add(width as u64 / 2)
}

fn fraction(index: u16, scale: f64) -> String {
    let (lower, _) = bin_bounds(index);
    #[expect(clippy::cast_possible_truncation, reason = "two digits are known")]
    let value = (lower * scale) as f32;
    value.to_string()
}

#[expect(clippy::cast_precision_loss, reason = "a rate")]
fn ratio(part: u64, whole: u64) -> f64 {
    part as f64 / whole as f64
}

/// Puts lines into datagrams, as many as go in.
struct Packer<'s> {
    most: usize,
    packed: String,
    socket: &'s Datagrams,
}

impl Packer<'_> {
    fn pack(&mut self, line: &str) {
        if line.len() >= self.most {
            return self.socket.send(line.as_bytes());
        }
        if self.packed.len() + line.len() + 1 > self.most {
            self.flush();
        } else if !self.packed.is_empty() {
            self.packed.push('\n');
        }
        self.packed.push_str(line);
    }

    fn flush(&mut self) {
        if !self.packed.is_empty() {
            self.socket.send(self.packed.as_bytes());
            self.packed.clear();
        }
    }
}

/// Where datagrams go.
#[derive(Debug)]
enum Datagrams {
    Udp(UdpSocket, SocketAddr),
    Unix(UnixDatagram, UnixAddr),
}

impl Datagrams {
    fn to(address: &Address) -> io::Result<Self> {
        match address {
            Address::Ip(to) => {
                let any = match to {
                    SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
                    SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
                };
                let socket = UdpSocket::bind(any)?;
                socket.set_nonblocking(true)?;
                Ok(Self::Udp(socket, *to))
            }
            Address::Pipe(path) => {
                let socket = UnixDatagram::unbound()?;
                socket.set_nonblocking(true)?;
                let to = match path.strip_prefix('@') {
                    Some(name) => UnixAddr::from_abstract_name(name)?,
                    None => UnixAddr::from_pathname(&**path)?,
                };
                Ok(Self::Unix(socket, to))
            }
        }
    }

    fn send(&self, datagram: &[u8]) {
        let sent = match self {
            Self::Udp(socket, to) => socket.send_to(datagram, to),
            Self::Unix(socket, to) => socket.send_to_addr(datagram, to),
        };
        if let Err(error) = sent {
            tracing::debug!("a datagram of statistics is lost: {error}");
        }
    }
}

/// (It may say that it is one of UDP, as it is.)
fn build_address(mut proto: core::Address, cx: &mut BuildCx<'_>) -> Result<Address, Rejected> {
    use core::address::Address as Kind;
    if let Some(Kind::SocketAddress(socket)) = &mut proto.address {
        socket.protocol = Protocol::Tcp as i32;
    }
    Address::build(&proto, cx)
}

#[cfg(test)]
pub(super) mod tests {
    use proxy_core::stats::{Registry, Scope};

    use super::*;
    use crate::testing::env;

    /// A sink, and who hears it.
    pub(crate) fn rig(tags: Tags, prefix: &str, datagram: Option<u64>) -> (Statsd, UdpSocket) {
        let listener = UdpSocket::bind("127.0.0.1:0").unwrap();
        let socket = Datagrams::to(&Address::Ip(listener.local_addr().unwrap())).unwrap();
        let [counters, gauges, timers] = std::array::from_fn(|_| Lines::default());
        let datagram = datagram.map_or(0, |most| most as usize);
        (Statsd { prefix: prefix.to_owned(), tags, datagram, socket, counters, gauges, timers }, listener)
    }

    fn flush(sink: &mut Statsd, registry: &Registry, fresh: u64) {
        registry.flush();
        registry.visit(&mut |metric| sink.take(&metric, fresh, registry.settings()));
        sink.send(SystemTime::now(), &env());
    }

    fn received(listener: &UdpSocket, count: usize) -> Vec<String> {
        let mut buffer = [0; 2048];
        (0..count)
            .map(|_| {
                let length = listener.recv(&mut buffer).unwrap();
                String::from_utf8(buffer[..length].to_vec()).unwrap()
            })
            .collect()
    }

    fn some(registry: &std::sync::Arc<Registry>) -> Scope {
        registry.scope("cluster.up")
    }

    #[test]
    fn each_line_has_a_datagram() {
        let registry = Registry::new(1);
        let scope = some(&registry);
        let (counter, gauge) = (scope.counter("upstream_rq_total"), scope.gauge("upstream_rq_active"));
        counter.add(5);
        gauge.set(7);
        for (tags, lines) in [
            (Tags::InName, ["p.cluster.up.upstream_rq_total:2|c", "p.cluster.up.upstream_rq_active:7|g"]),
            (
                Tags::AfterValue,
                [
                    "p.cluster.upstream_rq_total:2|c|#envoy.cluster_name:up",
                    "p.cluster.upstream_rq_active:7|g|#envoy.cluster_name:up",
                ],
            ),
            (
                Tags::AfterName,
                [
                    "p.cluster.upstream_rq_total;envoy.cluster_name=up:2|c",
                    "p.cluster.upstream_rq_active;envoy.cluster_name=up:7|g",
                ],
            ),
        ] {
            let (mut sink, listener) = rig(tags, "p", None);
            flush(&mut sink, &registry, 2);
            assert_eq!(received(&listener, 2), lines);
        }
    }

    #[test]
    fn lines_share_datagrams_up_to_their_size() {
        let registry = Registry::new(1);
        let scope = registry.scope("a");
        let cells: Vec<_> = ["b1", "b2", "b3"].iter().map(|name| scope.counter(name)).collect();
        cells.iter().for_each(|cell| cell.inc());
        let (mut sink, listener) = rig(Tags::InName, "p", Some(21));
        flush(&mut sink, &registry, 1);
        let datagrams = received(&listener, 2);
        assert_eq!(datagrams[0].len(), 21, "{datagrams:?}");
        assert_eq!(datagrams[1].len(), 10, "{datagrams:?}");
    }

    #[test]
    fn histograms_become_timers_of_what_was_recorded() {
        let registry = Registry::new(1);
        let time = registry.scope("a").histogram("time", Unit::Milliseconds);
        for value in [3, 3, 42, 157] {
            time.record(value);
        }
        let (mut sink, listener) = rig(Tags::InName, "p", None);
        flush(&mut sink, &registry, 0);
        assert_eq!(
            received(&listener, 4),
            ["p.a.time:3|ms", "p.a.time:3|ms", "p.a.time:42|ms", "p.a.time:155|ms"]
        );
        for _ in 0..40 {
            time.record(1);
        }
        flush(&mut sink, &registry, 0);
        let lines = received(&listener, 16);
        assert!(lines.iter().all(|line| line == "p.a.time:1|ms|@0.4"), "{lines:?}");
        // Nothing new: the next line is of another statistic.
        registry.scope("a").counter("end").inc();
        let end = registry.scope("a").counter("end");
        end.inc();
        flush(&mut sink, &registry, 1);
        assert_eq!(received(&listener, 1), ["p.a.end:1|c"]);
    }

    #[test]
    fn fractions_are_fractions() {
        let registry = Registry::new(1);
        let spent = registry.scope("a").histogram("spent", Unit::Percent);
        spent.record(500_000);
        let (mut sink, listener) = rig(Tags::InName, "p", None);
        flush(&mut sink, &registry, 0);
        assert_eq!(received(&listener, 1), ["p.a.spent:0.5|h"]);
    }
}
