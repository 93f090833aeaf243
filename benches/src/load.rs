//! One run of a load generator against one proxy: a closed loop, as fast as the proxy answers.

use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::options::{Measure, Options, Part};
use crate::peers::{Peer, Running, program};
use crate::proc::Cpu;

/// What clients of a mesh send along, beside `host`.
const FIELDS: [&str; 19] = [
    "accept: application/json, text/plain, */*",
    "accept-encoding: gzip, deflate, br",
    "accept-language: en-GB,en;q=0.9,de;q=0.8",
    "authorization: Bearer 4f1c2d3e5a6b7c8d9e0f1a2b3c4d5e6f7a8b9c0d1e2f3a4b5c6d7e8f",
    "cache-control: no-cache",
    "content-type: application/json",
    "cookie: session=0f9e8d7c6b5a49382716; theme=light; region=eu-west",
    "origin: https://shop.example.com",
    "pragma: no-cache",
    "referer: https://shop.example.com/cart",
    "user-agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/128.0 Safari/537.36",
    "x-api-version: 2024-06-01",
    "x-b3-sampled: 1",
    "x-b3-spanid: a2fb4a1d1a96d312",
    "x-b3-traceid: 463ac35c9f6413ad48485a3953bb6124",
    "x-client-region: eu-west-1",
    "x-debug: 1",
    "x-tenant: acme",
    "x-user-id: 8812734",
];

/// Runs one load; nothing where the peer does not do that.
pub(crate) fn run(measure: Measure, proxy: &Running, options: &Options) -> Result<Vec<(Part, f64)>> {
    let does = match measure {
        // nginx speaks HTTP/1 only to its upstreams, and its TCP proxy is a module that may be absent
        Measure::H2 | Measure::H2Wide | Measure::H1ToH2 | Measure::Tcp | Measure::TcpBig => {
            proxy.peer != Peer::Nginx
        }
        _ => true,
    };
    if !does {
        return Ok(Vec::new());
    }
    let ports = &proxy.ports;
    let load = || match measure {
        Measure::H2 => h2load(ports.h2, "8", "32", options),
        Measure::H2Wide => h2load(ports.h2, "64", "1", options),
        Measure::H2ToH1 => h2load(ports.h2_to_h1, "64", "1", options),
        Measure::H1ToH2 => wrk(ports.h1_to_h2, "/", "64", &[], options),
        Measure::H1Rich => wrk(ports.h1_rich, "/", "64", &FIELDS, options),
        Measure::Tcp => wrk(ports.tcp, "/", "64", &[], options),
        Measure::TcpBig => wrk(ports.tcp, "/big/1m", "8", &[], options),
        Measure::Big => wrk(ports.h1, "/big/1m", "8", &[], options),
        _ => wrk(ports.h1, "/", "64", &[], options),
    };
    per_request(proxy.pid(), options, load)
}

/// What the requests of a load cost a process.
pub(crate) fn per_request(
    pid: u32,
    options: &Options,
    load: impl FnOnce() -> Result<Answered>,
) -> Result<Vec<(Part, f64)>> {
    let before = Cpu::of(pid)?;
    let (requests, latency) = load()?;
    let used = Cpu::of(pid)?.since(before);
    ensure!(requests > 0.0, "no request was answered");
    let mut values = vec![
        (Part::Main, used.total().as_secs_f64() * 1e6 / requests),
        (Part::User, used.user.as_secs_f64() * 1e6 / requests),
        (Part::Rate, requests / f64::from(options.seconds)),
    ];
    if let Some((median, tail)) = latency {
        values.extend([(Part::Median, median), (Part::Tail, tail)]);
    }
    Ok(values)
}

/// Requests answered; median and 99th percentile of latency in milliseconds, where the generator tells.
pub(crate) type Answered = (f64, Option<(f64, f64)>);

fn output(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

pub(crate) fn wrk(
    port: u16,
    path: &str,
    connections: &str,
    fields: &[&str],
    options: &Options,
) -> Result<Answered> {
    let text = output(
        Command::new(program("WRK")?)
            .args(["-t1", "--latency", "-c", connections, "-d"])
            .arg(format!("{}s", options.seconds))
            .args(fields.iter().flat_map(|field| ["-H", field]))
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
    Ok((requests, Some((percentile("50%")?, percentile("99%")?))))
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

pub(crate) fn h2load(port: u16, connections: &str, streams: &str, options: &Options) -> Result<Answered> {
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
    Ok((number("succeeded")?, None))
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
