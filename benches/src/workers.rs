//! What a CPU second is worth with two workers, against one: the same load on two processes of the same proxy, in turns.
//!
//! The load generator and the backend share the machine, so on a small one the two workers do not get two cores to
//! themselves; that both run, contend and share what they share is what counts.

use anyhow::Result;

use crate::options::{Measure, Options, Part};
use crate::peers::{Backend, Peer, Running};
use crate::report::{Report, median};
use crate::{load, say};

/// Adds one sample per round and peer.
pub(crate) fn measure(options: &Options, backend: &Backend, report: &mut Report) -> Result<()> {
    let mut pairs = Vec::new();
    for peer in Peer::ALL.into_iter().filter(|peer| options.peers.contains(peer)) {
        let started = Running::start(peer, options, backend, 1)
            .and_then(|one| Ok((one, Running::start(peer, options, backend, 2)?)));
        match started {
            Ok(pair) => pairs.push(pair),
            Err(error) => report.fail(format!("{} did not start: {error:#}", peer.name())),
        }
    }
    for _ in 0..options.rounds {
        for (one, two) in &pairs {
            let sample = cpu(one, options).and_then(|one| Ok([(Part::Main, one / cpu(two, options)?)]));
            report.add_all(Measure::Workers, one.peer, sample);
        }
    }
    say("workers done");
    Ok(())
}

/// CPU time per request.
fn cpu(proxy: &Running, options: &Options) -> Result<f64> {
    let values = load::run(Measure::Workers, proxy, options)?;
    let cpu: Vec<f64> = values.iter().filter(|(part, _)| *part == Part::Main).map(|(_, cpu)| *cpu).collect();
    Ok(median(&cpu).unwrap_or(f64::NAN))
}
