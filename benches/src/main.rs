//! The load bench: what Outrigger costs beside Envoy, HAProxy and nginx, on loopback, one worker each.
//!
//! One nginx is the backend of all. The proxies run side by side, but only one is under load at a time; they take turns
//! (A B C D A B C D ...) and the median over the rounds counts. The measure is CPU time of the proxy's processes per
//! request, from `/proc`: it is far steadier than requests per second on a shared machine, and it is what is paid for.
//!
//! Usage: `load [--quick] [--only h1,h2,...] [--outrigger PATH] [--rounds N] [--seconds N] [--results FOLDER]`.
//! The peers come from the environment as `scripts/peers.sh` prints it (`ENVOY`, `HAPROXY`, `NGINX`, `WRK`, `H2LOAD`).

mod clusters;
mod idle;
mod load;
mod options;
mod peers;
mod plot;
mod proc;
mod report;

use std::io::Write;
use std::process::ExitCode;

use anyhow::{Result, ensure};

use options::{Measure, Options};
use peers::{Backend, Peer};
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
    let mut running = Vec::new();
    for peer in Peer::ALL.into_iter().filter(|peer| options.peers.contains(peer)) {
        match peers::Running::start(peer, options, backend) {
            Ok(process) => running.push(process),
            Err(error) => report.fail(format!("{} did not start: {error:#}", peer.name())),
        }
    }
    if options.wants(Measure::Start) {
        for process in &running {
            report.add(Measure::Start, process.peer, proc::resident_kib(process.pid())? as f64 / 1024.0);
        }
    }
    for measure in Measure::LOADS.into_iter().filter(|measure| options.wants(*measure)) {
        for round in 0..options.rounds {
            for process in &running {
                match load::run(measure, process, options) {
                    Ok(Some(sample)) => report.add_sample(measure, process.peer, sample),
                    Ok(None) => {}
                    Err(error) if round == 0 => {
                        report.fail(format!("{} {}: {error:#}", process.peer.name(), measure.name()));
                    }
                    Err(_) => {}
                }
            }
        }
        say(&format!("{} done", measure.name()));
    }
    drop(running);
    if options.wants(Measure::Idle) {
        idle::measure(options, backend, report)?;
    }
    if options.wants(Measure::Clusters) {
        clusters::measure(options, report)?;
    }
    Ok(())
}
