//! The load bench: what Outrigger costs beside Envoy, HAProxy and nginx, on loopback, one worker each.
//!
//! One nginx is the backend of all. The proxies run side by side, but only one is under load at a time; they take turns
//! (A B C D A B C D ...), work after work, round after round, and the median over the rounds counts. The measure is CPU time of the proxy's processes per
//! request, from `/proc`: it is far steadier than requests per second on a shared machine, and it is what is paid for.
//!
//! Usage: `load [--quick] [--only h1,h2,...] [--peers outrigger,envoy,...] [--rounds N] [--seconds N] [--keep] [--rate N]
//! [--outrigger PATH] [--results FOLDER]`. What is measured, by name: `options.rs`.
//! The peers come from the environment as `scripts/peers.sh` prints it (`ENVOY`, `HAPROXY`, `NGINX`, `WRK`, `H2LOAD`).

mod circumstances;
mod clusters;
mod endpoints;
mod features;
mod handshakes;
mod idle;
mod limiter;
mod load;
mod mesh;
mod open_loop;
mod options;
mod peers;
mod plot;
mod policies;
mod proc;
mod redirected;
mod report;
mod slow_host;
mod start;
mod tail;
mod workers;

use std::io::Write;
use std::process::ExitCode;

use anyhow::{Result, ensure};

use options::{Measure, Options};
use peers::{Backend, Peer, Running};
use report::Report;

/// One line of progress. The result goes to files; this is for whoever watches.
pub(crate) fn say(text: &str) {
    // nobody may be watching
    let _ = writeln!(std::io::stderr(), "{text}");
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let options = Options::from_args(std::env::args().skip(1))?;
    proc::raise_file_limit()?;
    let mut report = Report::new(&options)?;
    let backend = Backend::start()?;
    measure(&options, &backend, &mut report)?;
    let table = report.write()?;
    writeln!(std::io::stdout(), "{table}")?;
    ensure!(report.failures().is_empty(), "some runs failed: {}", report.failures().join("; "));
    Ok(())
}

fn measure(options: &Options, backend: &Backend, report: &mut Report) -> Result<()> {
    loads(options, backend, report)?;
    if options.wants(Measure::Workers) {
        workers::measure(options, backend, report)?;
    }
    if options.wants(Measure::Start) {
        start::measure(options, backend, report)?;
    }
    for idle in [Measure::Idle, Measure::IdleH2].into_iter().filter(|idle| options.wants(*idle)) {
        idle::measure(idle, options, backend, report)?;
    }
    if options.wants(Measure::Clusters) {
        clusters::measure(options, report)?;
    }
    endpoints::measure(options, report)?;
    if options.wants(Measure::SlowHost) {
        slow_host::measure(options, backend, report)?;
    }
    mesh::measure(options, backend, report)?;
    if options.wants(Measure::Redirected) {
        redirected::measure(options, report)?;
    }
    Ok(())
}

/// What is measured on one process of each proxy, side by side.
fn loads(options: &Options, backend: &Backend, report: &mut Report) -> Result<()> {
    let loads: Vec<Measure> = Measure::LOADS.into_iter().filter(|load| options.wants(*load)).collect();
    if loads.is_empty() && !options.wants(Measure::Tail) {
        return Ok(());
    }
    let mut running = Vec::new();
    for peer in Peer::ALL.into_iter().filter(|peer| options.peers.contains(peer)) {
        match Running::start(peer, options, backend, 1) {
            Ok(process) => running.push(process),
            Err(error) => report.fail(format!("{} did not start: {error:#}", peer.name())),
        }
    }
    // All works in each round: so the rounds of one are minutes apart, and a neighbour's busy minute spoils one of them.
    for round in 1..=options.rounds {
        for measure in &loads {
            for process in &running {
                report.add_all(*measure, process.peer, load::run(*measure, process, options));
            }
        }
        say(&format!("round {round} of {} done", options.rounds));
    }
    if options.wants(Measure::Tail) {
        tail::measure(options, &running, report)?;
    }
    Ok(())
}
