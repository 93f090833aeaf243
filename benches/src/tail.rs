//! Latency under a load that every proxy can carry: 60 % of the rate that saturates Envoy, open loop.

use std::time::Duration;

use anyhow::{Context, Result};

use crate::options::{Measure, Options, Part};
use crate::peers::{Peer, Running};
use crate::proc::Cpu;
use crate::report::{Report, median};
use crate::{load, open_loop, say};

const CONNECTIONS: usize = 64;
/// Which part of Envoy's saturation rate is offered.
const SHARE: f64 = 0.6;

/// Adds one sample per round and proxy.
pub(crate) fn measure(options: &Options, running: &[Running], report: &mut Report) -> Result<()> {
    let rate = match options.rate {
        Some(rate) => rate,
        None => SHARE * saturation(options, running, report)?,
    };
    for _ in 0..options.rounds {
        for proxy in running {
            let sample = run(proxy, rate, options);
            report.add_all(Measure::Tail, proxy.peer, sample);
        }
    }
    say("tail done");
    Ok(())
}

/// Requests per second that Envoy answers at most: of the closed loop of this run, or of one made now.
fn saturation(options: &Options, running: &[Running], report: &Report) -> Result<f64> {
    if let Some(rate) = report.value(Measure::H1, Part::Rate, Peer::Envoy) {
        return Ok(rate);
    }
    let envoy = running.iter().find(|proxy| proxy.peer == Peer::Envoy);
    let envoy = envoy.context("without Envoy, --rate has to tell the rate of the open loop")?;
    let mut rates = Vec::new();
    for _ in 0..options.rounds {
        rates.extend(load::run(Measure::H1, envoy, options)?);
    }
    let rates: Vec<f64> =
        rates.iter().filter(|(part, _)| *part == Part::Rate).map(|(_, rate)| *rate).collect();
    median(&rates).context("no rate")
}

fn run(proxy: &Running, rate: f64, options: &Options) -> Result<Vec<(Part, f64)>> {
    let before = Cpu::of(proxy.pid())?;
    let duration = Duration::from_secs(options.seconds.into());
    let mut latencies = open_loop::run(proxy.ports.h1, CONNECTIONS, rate, duration)?;
    let used = Cpu::of(proxy.pid())?.since(before);
    latencies.sort_unstable();
    let percentile = |share: f64| -> Result<f64> {
        let at = (latencies.len() as f64 * share) as usize;
        Ok(latencies.get(at).context("no answers")?.as_secs_f64() * 1e3)
    };
    Ok(vec![
        (Part::Main, percentile(0.99)?),
        (Part::Rate, latencies.len() as f64 / duration.as_secs_f64()),
        (Part::Median, percentile(0.5)?),
        (Part::Cpu, used.total().as_secs_f64() * 1e6 / latencies.len() as f64),
    ])
}
