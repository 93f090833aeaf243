//! What the kernel says about processes.

use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the limit of open files to the hard one; children inherit it.
pub(crate) fn raise_file_limit() -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    Ok(setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?)
}

/// CPU time in user mode and in the kernel.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Cpu {
    pub(crate) user: Duration,
    pub(crate) system: Duration,
}

impl Cpu {
    /// Of a process and its living descendants, since they started.
    pub(crate) fn of(pid: u32) -> Result<Self> {
        let mut total = stat(pid)?.cpu;
        for child in children(pid)? {
            let cpu = Self::of(child)?;
            total = Self { user: total.user + cpu.user, system: total.system + cpu.system };
        }
        Ok(total)
    }

    /// Both together.
    pub(crate) fn total(self) -> Duration {
        self.user + self.system
    }

    /// What was used since `before`.
    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            user: self.user.saturating_sub(before.user),
            system: self.system.saturating_sub(before.system),
        }
    }
}

/// Resident memory of a process and its descendants. Pages that they share count once per process.
pub(crate) fn resident_kib(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let own: u64 = line.trim().trim_end_matches(" kB").parse().context("VmRSS")?;
    children(pid)?.into_iter().try_fold(own, |sum, child| Ok(sum + resident_kib(child)?))
}

struct Stat {
    parent: u32,
    cpu: Cpu,
}

fn stat(pid: u32) -> Result<Stat> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // the command may contain anything, so fields are counted from its closing parenthesis (proc(5): field 3 follows)
    let rest = text.rsplit_once(')').context("no command in stat")?.1;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let field = |number: usize| fields.get(number - 3).with_context(|| format!("no field {number}"));
    let per_second = rustix::param::clock_ticks_per_second();
    let time = |number| -> Result<Duration> {
        let ticks: u64 = field(number)?.parse()?;
        Ok(Duration::from_micros(ticks * 1_000_000 / per_second))
    };
    Ok(Stat { parent: field(4)?.parse()?, cpu: Cpu { user: time(14)?, system: time(15)? } })
}

fn children(pid: u32) -> Result<Vec<u32>> {
    let mut children = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let Some(other) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // a process that has just ended is nobody's child any more
        if stat(other).is_ok_and(|stat| stat.parent == pid) {
            children.push(other);
        }
    }
    Ok(children)
}
