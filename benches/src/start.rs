//! Memory after the start and the time to ready, with the configuration of the loads.

use anyhow::Result;

use crate::options::{Measure, Options, Part};
use crate::peers::{Backend, Peer, Running};
use crate::report::Report;
use crate::{proc, say};

/// Adds one sample per round and peer, each of a process of its own that has forwarded one request.
pub(crate) fn measure(options: &Options, backend: &Backend, report: &mut Report) -> Result<()> {
    for _ in 0..options.rounds {
        for peer in Peer::ALL.into_iter().filter(|peer| options.peers.contains(peer)) {
            let sample = || -> Result<_> {
                let proxy = Running::start(peer, options, backend, 1)?;
                let memory = proc::resident_kib(proxy.pid())? as f64 / 1024.0;
                Ok([(Part::Main, memory), (Part::Ready, proxy.ready.as_secs_f64() * 1e3)])
            };
            report.add_all(Measure::Start, peer, sample());
        }
    }
    say("start done");
    Ok(())
}
