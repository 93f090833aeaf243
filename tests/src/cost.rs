//! What a peer makes the proxy spend: memory and CPU time, beside what the peer itself sent and spent.
//!
//! The bar is Envoy's own (`threat_model.rst`): a hundred times. Figures that are too small to be a threat (below
//! `HELD` and `BUSY`) count as none: the smallest allocation is many times one byte.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::process::build_folder;

/// Growth of memory from which on it is held against what was sent.
const HELD: u64 = 1 << 20;
/// CPU time from which on it is held against the client's.
const BUSY: Duration = Duration::from_millis(200);
/// What a connection costs its client on the wire without a byte of its own: packets of a handshake and of an end.
pub const CONNECTION: u64 = 7 * 60;
/// How many times what a client spends the proxy may spend.
const BAR: f64 = 100.0;

/// A measurement under way.
#[derive(Debug)]
pub struct Meter {
    pid: u32,
    resident: u64,
    proxy: Duration,
    client: Duration,
    sent: u64,
}

/// A measurement.
#[derive(Debug, Clone, Copy)]
pub struct Cost {
    pub sent: u64,
    /// By how much resident memory exceeded what it was before, at most.
    pub held: u64,
    pub proxy: Duration,
    pub client: Duration,
}

impl Meter {
    /// Starts to measure the process; the client is the thread that calls.
    pub fn start(pid: u32) -> Result<Self> {
        // 5: the peak of resident memory starts anew (`proc_pid_clear_refs(5)`)
        std::fs::write(format!("/proc/{pid}/clear_refs"), "5").context("/proc/../clear_refs")?;
        let resident = memory(pid, "VmRSS:")?;
        Ok(Self { pid, resident, proxy: process_time(pid)?, client: thread_time()?, sent: 0 })
    }

    /// Notes that the client sent so many bytes.
    pub fn sent(&mut self, bytes: usize) {
        self.sent += bytes as u64;
    }

    /// Notes that the client opened so many connections.
    pub fn connected(&mut self, count: usize) {
        self.sent += count as u64 * CONNECTION;
    }

    /// What it cost so far.
    pub fn read(&self) -> Result<Cost> {
        Ok(Cost {
            sent: self.sent,
            held: memory(self.pid, "VmHWM:")?.saturating_sub(self.resident),
            proxy: process_time(self.pid)?.saturating_sub(self.proxy),
            client: thread_time()?.saturating_sub(self.client),
        })
    }
}

impl Cost {
    /// How many times what was sent was held.
    pub fn memory(&self) -> f64 {
        if self.held < HELD { 0.0 } else { self.held as f64 / self.sent.max(1) as f64 }
    }

    /// How many times the client's CPU time was spent.
    pub fn cpu(&self) -> f64 {
        match self.proxy < BUSY {
            true => 0.0,
            false => self.proxy.as_secs_f64() / self.client.as_secs_f64().max(1e-6),
        }
    }

    /// Fails above the bar.
    pub fn check(&self) -> Result<()> {
        ensure!(self.memory() < BAR && self.cpu() < BAR, "amplification: {self}");
        Ok(())
    }

    /// Adds a line to `amplification.tsv` beside the build, where `make faults` reads the worst.
    pub fn record(&self, name: &str) -> Result<()> {
        use std::io::Write;
        let worst = self.memory().max(self.cpu());
        let path = build_folder()?.join("amplification.tsv");
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path)?;
        Ok(file.write_all(format!("{worst:.2}\t{name}\t{self}\n").as_bytes())?)
    }
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} KiB sent, {} KiB held ({:.1} x), {} ms of CPU for the client's {} ms ({:.1} x)",
            self.sent / 1024,
            self.held / 1024,
            self.memory(),
            self.proxy.as_millis(),
            self.client.as_millis(),
            self.cpu()
        )
    }
}

/// A line of `/proc/<pid>/status`, in bytes.
pub fn memory(pid: u32, field: &str) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(field)).context(field.to_owned())?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().context(field.to_owned())?;
    Ok(kib * 1024)
}

/// CPU time of all threads of a process that live.
pub fn process_time(pid: u32) -> Result<Duration> {
    let mut time = Duration::ZERO;
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        // a thread may end between the two
        time += on_cpu(&task?.path().join("schedstat")).unwrap_or_default();
    }
    Ok(time)
}

fn thread_time() -> Result<Duration> {
    on_cpu(Path::new("/proc/thread-self/schedstat"))
}

fn on_cpu(path: &Path) -> Result<Duration> {
    let text = std::fs::read_to_string(path)?;
    let nanoseconds = text.split(' ').next().context("an empty schedstat")?.parse()?;
    Ok(Duration::from_nanos(nanoseconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_small_is_no_threat() {
        let ms = Duration::from_millis;
        let small = Cost { sent: 10, held: 100_000, proxy: ms(150), client: ms(1) };
        assert_eq!((small.memory(), small.cpu()), (0.0, 0.0));
        let large = Cost { sent: 10 << 10, held: 1 << 20, proxy: ms(300), client: ms(2) };
        assert_eq!(large.memory(), 102.4);
        assert!(large.check().is_err());
    }
}
