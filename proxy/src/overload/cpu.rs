//! How busy the processors are: of the machine, by `/proc/stat`, or of the container, by the files of its cgroup (version 2, or else
//! version 1). What one interval shows counts for a twentieth, what was known before for the rest.
//!
//! Source: Envoy `cpu_utilization.proto`; Linux `Documentation/filesystems/proc.rst`, `admin-guide/cgroup-v2.rst`.

use std::path::{Path, PathBuf};
use std::time::Instant;

use xds_api::envoy::extensions::resource_monitors::cpu_utilization::v3::cpu_utilization_config::UtilizationComputeStrategy as Mode;

use super::monitors::read;

/// How much the last interval counts.
const WEIGHT: f64 = 0.05;
/// One processor in the shares of cgroups of version 1, as Kubernetes gives them out.
const SHARES: f64 = 1000.0;

/// Where the numbers are.
#[derive(Debug)]
struct Files {
    machine: PathBuf,
    /// Version 2.
    cgroup: PathBuf,
    /// Version 1.
    old_cgroup: PathBuf,
}

/// What was counted by a moment.
#[derive(Clone, Copy, Debug)]
struct Count {
    work: f64,
    /// In the unit of `work`, of all processors.
    total: f64,
}

/// See the module above.
#[derive(Debug)]
pub(crate) struct Cpu {
    mode: Mode,
    files: Files,
    start: Instant,
    before: Option<Count>,
    smoothed: f64,
}

impl Cpu {
    /// Counts from `now` on.
    pub(super) fn new(mode: Mode, now: Instant) -> Self {
        let files = Files {
            machine: "/proc/stat".into(),
            cgroup: "/sys/fs/cgroup".into(),
            old_cgroup: "/sys/fs/cgroup/cpu".into(),
        };
        Self::of(mode, files, now)
    }

    fn of(mode: Mode, files: Files, now: Instant) -> Self {
        let mut cpu = Self { mode, files, start: now, before: None, smoothed: 0.0 };
        cpu.before = cpu.count(now).ok();
        cpu
    }

    /// The share that is used, smoothed.
    pub(super) fn pressure(&mut self, now: Instant) -> Result<f64, String> {
        let count = self.count(now)?;
        let before = self.before.replace(count).unwrap_or(count);
        let (work, total) = (count.work - before.work, count.total - before.total);
        if work < 0.0 || total <= 0.0 {
            return Err(format!("processors worked {work} of {total} since they were looked at"));
        }
        self.smoothed += (work / total - self.smoothed) * WEIGHT;
        Ok(self.smoothed.clamp(0.0, 1.0))
    }

    fn count(&self, now: Instant) -> Result<Count, String> {
        if self.mode == Mode::Host {
            return machine(&self.files.machine);
        }
        let seconds = now.saturating_duration_since(self.start).as_secs_f64();
        let stat = self.files.cgroup.join("cpu.stat");
        if stat.exists() {
            return cgroup(&self.files.cgroup, &stat, seconds);
        }
        let (used, shares) =
            (self.files.old_cgroup.join("cpuacct.usage"), self.files.old_cgroup.join("cpu.shares"));
        // (Nanoseconds.)
        Ok(Count { work: number(&used)?, total: seconds * 1e9 * number(&shares)? / SHARES })
    }
}

/// The first line of `/proc/stat`: time for users, for nice ones, for the system, idle, in ticks.
fn machine(path: &Path) -> Result<Count, String> {
    let text = read(path)?;
    let mut times = text.strip_prefix("cpu ").into_iter().flat_map(str::split_ascii_whitespace);
    let mut next = || times.next().and_then(|time| time.parse::<f64>().ok());
    let (Some(user), Some(nice), Some(system), Some(idle)) = (next(), next(), next(), next()) else {
        return Err(format!("'{}' does not tell the time of processors", path.display()));
    };
    let work = user + nice + system;
    Ok(Count { work, total: work + idle })
}

/// A cgroup of version 2: microseconds used, of those of the processors that it may use.
fn cgroup(folder: &Path, stat: &Path, seconds: f64) -> Result<Count, String> {
    let text = read(stat)?;
    let used = text.lines().find_map(|line| line.strip_prefix("usage_usec "));
    let used: Option<f64> = used.and_then(|used| used.trim().parse().ok());
    let used = used.ok_or_else(|| format!("'{}' does not tell what is used", stat.display()))?;
    let path = folder.join("cpuset.cpus.effective");
    let processors = read(&path)?.trim().split(',').map(length).sum::<Option<f64>>();
    let processors = processors.ok_or_else(|| format!("'{}' lists no processors", path.display()))?;
    let path = folder.join("cpu.max");
    let text = read(&path)?;
    let allowed = match text.split_ascii_whitespace().collect::<Vec<_>>()[..] {
        ["max", _] => Some(processors),
        [quota, period] => quota
            .parse::<f64>()
            .ok()
            .zip(period.parse::<f64>().ok())
            .and_then(|(quota, period)| (period > 0.0).then(|| (quota / period).min(processors))),
        _ => None,
    };
    let allowed = allowed.ok_or_else(|| format!("'{}' holds no quota", path.display()))?;
    Ok(Count { work: used, total: seconds * 1e6 * allowed })
}

/// How many processors `3` or `0-3` are.
fn length(range: &str) -> Option<f64> {
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    let (first, last) = (first.parse::<u32>().ok()?, last.parse::<u32>().ok()?);
    Some(f64::from(last.checked_sub(first)?) + 1.0)
}

fn number(path: &Path) -> Result<f64, String> {
    read(path)?.trim().parse().map_err(|_| format!("'{}' holds no number", path.display()))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Duration;

    use super::*;

    /// Files that are written by the test.
    struct Machine(tempfile::TempDir);

    impl Machine {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn write(&self, name: &str, text: &str) {
            fs::write(self.0.path().join(name), text).unwrap();
        }

        fn cpu(&self, mode: Mode, now: Instant) -> Cpu {
            let folder = self.0.path();
            let files =
                Files { machine: folder.join("stat"), cgroup: folder.into(), old_cgroup: folder.into() };
            Cpu::of(mode, files, now)
        }
    }

    fn rounded(pressure: Result<f64, String>) -> f64 {
        (pressure.unwrap() * 1e6).round() / 1e6
    }

    #[test]
    fn the_machine_is_looked_at_from_interval_to_interval() {
        let (machine, now) = (Machine::new(), Instant::now());
        machine.write("stat", "cpu  100 0 100 800 5 0 0\ncpu0 1 2 3 4\n");
        let mut cpu = machine.cpu(Mode::Host, now);
        machine.write("stat", "cpu  150 10 140 1000 9 0 0\n");
        // 100 of 300, and then 100 of 100.
        assert_eq!(rounded(cpu.pressure(now)), 0.016_667);
        machine.write("stat", "cpu  250 10 140 1000 9 0 0\n");
        assert_eq!(rounded(cpu.pressure(now)), 0.065_833);
        assert!(cpu.pressure(now).is_err(), "no time has passed");
        machine.write("stat", "cpu  10 0 0 20\n");
        assert!(cpu.pressure(now).is_err(), "that is less than before");
        for text in ["", "cpu  1 2 3\n", "cpu  1 2 3 x\n", "intr 1 2 3 4\n"] {
            machine.write("stat", text);
            assert!(cpu.pressure(now).is_err(), "{text}");
        }
    }

    #[test]
    fn a_container_is_measured_against_its_quota() {
        // Half a second of work in a second, of what `quota` allows.
        for (quota, processors, expected) in [
            ("200000 100000", "0-3", 0.25),
            ("max 100000", "0-3", 0.125),
            ("max 100000", "0,2-4", 0.125),
            ("900000 100000", "7", 0.5),
        ] {
            let (machine, now) = (Machine::new(), Instant::now());
            machine.write("cpu.stat", "nr_periods 0\nusage_usec 1000000\n");
            machine.write("cpu.max", quota);
            machine.write("cpuset.cpus.effective", processors);
            let mut cpu = machine.cpu(Mode::Container, now);
            machine.write("cpu.stat", "usage_usec 1500000\nuser_usec 1\n");
            assert_eq!(rounded(cpu.pressure(now + Duration::from_secs(1))), rounded(Ok(expected * WEIGHT)));
        }
        let (machine, now) = (Machine::new(), Instant::now());
        machine.write("cpuacct.usage", "0\n");
        machine.write("cpu.shares", "2000\n");
        let mut cpu = machine.cpu(Mode::Container, now);
        machine.write("cpuacct.usage", "500000000\n");
        assert_eq!(rounded(cpu.pressure(now + Duration::from_secs(1))), rounded(Ok(0.25 * WEIGHT)));
    }

    #[test]
    fn a_cgroup_that_does_not_say_is_an_error() {
        let now = Instant::now();
        for (stat, processors, quota) in [
            ("", "0", "max 1"),
            ("usage_usec 1", "3-1", "max 1"),
            ("usage_usec 1", "0", "1 0"),
            ("usage_usec 1", "0", "1"),
        ] {
            let machine = Machine::new();
            machine.write("cpu.stat", stat);
            machine.write("cpuset.cpus.effective", processors);
            machine.write("cpu.max", quota);
            let mut cpu = machine.cpu(Mode::Container, now);
            assert!(cpu.pressure(now + Duration::from_secs(1)).is_err(), "{stat} {processors} {quota}");
        }
        assert!(Machine::new().cpu(Mode::Container, now).pressure(now).is_err());
    }
}
