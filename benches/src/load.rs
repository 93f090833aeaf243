//! One run of a load generator against one proxy.

use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::options::{Measure, Options};
use crate::peers::{Peer, Running, program};
use crate::proc::Cpu;

/// What one run gave.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    /// CPU time of the proxy per request, in microseconds.
    pub(crate) cpu: f64,
    /// The part of it in user mode.
    pub(crate) user: f64,
    /// Requests per second.
    pub(crate) rate: f64,
    /// Latency in milliseconds, where the generator tells: median and 99th percentile.
    pub(crate) latency: Option<(f64, f64)>,
}

/// What a load generator reported.
struct Answered {
    requests: f64,
    latency: Option<(f64, f64)>,
}

/// Runs one load; nothing where the peer does not do that.
pub(crate) fn run(measure: Measure, proxy: &Running, options: &Options) -> Result<Option<Sample>> {
    let does = match measure {
        Measure::H1 | Measure::Big => true,
        // nginx speaks HTTP/1 only to its upstreams, and its TCP proxy is a module that may be absent
        Measure::H2 | Measure::H2Wide | Measure::Tcp | Measure::TcpBig => proxy.peer != Peer::Nginx,
        Measure::Start | Measure::Idle | Measure::Clusters => false,
    };
    if !does {
        return Ok(None);
    }
    let before = Cpu::of(proxy.pid())?;
    let answered = match measure {
        Measure::H2 => h2load(proxy.h2, "8", "32", options)?,
        Measure::H2Wide => h2load(proxy.h2, "64", "1", options)?,
        Measure::Tcp => wrk(proxy.tcp, "/", "64", options)?,
        Measure::TcpBig => wrk(proxy.tcp, "/big/1m", "8", options)?,
        Measure::Big => wrk(proxy.h1, "/big/1m", "8", options)?,
        Measure::H1 | Measure::Start | Measure::Idle | Measure::Clusters => {
            wrk(proxy.h1, "/", "64", options)?
        }
    };
    let used = Cpu::of(proxy.pid())?.since(before);
    ensure!(answered.requests > 0.0, "no request was answered");
    let user = used.user.as_secs_f64() * 1e6 / answered.requests;
    let cpu = user + used.system.as_secs_f64() * 1e6 / answered.requests;
    let rate = answered.requests / f64::from(options.seconds);
    Ok(Some(Sample { cpu, user, rate, latency: answered.latency }))
}

fn output(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn wrk(port: u16, path: &str, connections: &str, options: &Options) -> Result<Answered> {
    let text = output(
        Command::new(program("WRK")?)
            .args(["-t1", "--latency", "-c", connections, "-d"])
            .arg(format!("{}s", options.seconds))
            .arg(format!("http://127.0.0.1:{port}{path}")),
    )?;
    for bad in ["Non-2xx", "Socket errors"] {
        ensure!(!text.contains(bad), "wrk: {text}");
    }
    let line =
        |what: &str| text.lines().find(|line| line.contains(what)).with_context(|| format!("wrk: no {what}"));
    let requests = line(" requests in ")?.split_whitespace().next().unwrap_or_default().parse()?;
    let percentile =
        |what| -> Result<f64> { millis(line(what)?.split_whitespace().nth(1).unwrap_or_default()) };
    Ok(Answered { requests, latency: Some((percentile("50%")?, percentile("99%")?)) })
}

/// `1.23ms`, `456us` or `1.2s` in milliseconds.
fn millis(text: &str) -> Result<f64> {
    let (number, factor) = match text {
        text if text.ends_with("us") => (text.trim_end_matches("us"), 0.001),
        text if text.ends_with("ms") => (text.trim_end_matches("ms"), 1.0),
        text => (text.trim_end_matches('s'), 1000.0),
    };
    Ok(number.parse::<f64>().with_context(|| format!("latency {text:?}"))? * factor)
}

fn h2load(port: u16, connections: &str, streams: &str, options: &Options) -> Result<Answered> {
    let text = output(
        Command::new(program("H2LOAD")?)
            .args(["-t1", "-c", connections, "-m", streams, "-D"])
            .arg(options.seconds.to_string())
            .arg(format!("http://127.0.0.1:{port}/")),
    )?;
    // requests: 1 total, 2 started, 3 done, 4 succeeded, 5 failed, 6 errored, 7 timeout
    let line = text.lines().find(|line| line.starts_with("requests:")).context("h2load: no requests")?;
    let number = |word: &str| -> Result<f64> {
        let at = line.find(word).with_context(|| format!("h2load: no {word}"))?;
        Ok(line[..at].split_whitespace().next_back().unwrap_or_default().parse()?)
    };
    ensure!(number("failed")? == 0.0 && number("errored")? == 0.0, "h2load: {line}");
    Ok(Answered { requests: number("succeeded")?, latency: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_are_read_in_every_unit() {
        assert!((millis("456us").unwrap() - 0.456).abs() < 1e-9);
        assert!((millis("1.5ms").unwrap() - 1.5).abs() < 1e-9);
        assert!((millis("2s").unwrap() - 2000.0).abs() < 1e-9);
    }
}
