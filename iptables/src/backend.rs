//! The programs that talk to the kernel, and which variant of iptables is the one to use here.
//!
//! iptables comes in two variants that write to different places of the kernel. Where there are rules of ours already, that is
//! the variant to use. Otherwise, as Istio does: if there are rules in the legacy place it is legacy, else nft if that
//! works, else whatever `iptables` is.

use std::io::{Read, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::address::Family;

/// How long a program may take. iptables itself waits up to half a minute for its lock.
const DEADLINE: Duration = Duration::from_secs(60);

/// Where the kernel keeps the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    Legacy,
    Nft,
}

/// Why something could not be done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{program} cannot be run ({source}); install it (Debian: {package})")]
    Missing { program: String, package: &'static str, source: std::io::Error },
    #[error("{program} took longer than {} s", DEADLINE.as_secs())]
    Deadline { program: String },
    #[error("`{command}` failed ({status}): {stderr}{hint}")]
    Failed { command: String, status: ExitStatus, stderr: String, hint: &'static str },
    #[error("no working iptables for {family}: {tried}")]
    NoIptables { family: Family, tried: String },
    #[error("{0}")]
    Other(String),
}

/// A program's run: its output, which is text.
pub struct Output {
    pub stdout: String,
    pub stderr: String,
}

/// Runs a program to its end, within the deadline.
///
/// # Errors
/// It cannot be started, takes too long, or fails.
pub fn run(program: &str, arguments: &[&str], input: &str) -> Result<Output, Error> {
    run_with(program, arguments, input, None)
}

fn run_with(program: &str, arguments: &[&str], input: &str, lock: Option<&str>) -> Result<Output, Error> {
    let missing = |source| Error::Missing { program: program.into(), package: package(program), source };
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new(program);
    command.args(arguments).env("PATH", format!("{path}:/usr/sbin:/sbin"));
    if let Some(lock) = lock {
        command.env("XTABLES_LOCKFILE", lock);
    }
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(missing)?;
    let (status, stdout, stderr) = finish(&mut child, input, program)?;
    if status.success() {
        return Ok(Output { stdout, stderr });
    }
    let command = std::iter::once(program).chain(arguments.iter().copied()).collect::<Vec<_>>().join(" ");
    let hint = if stderr.contains("Permission denied") || stderr.contains("Operation not permitted") {
        "; it takes root or CAP_NET_ADMIN and CAP_NET_RAW"
    } else {
        ""
    };
    Err(Error::Failed { command, status, stderr: stderr.trim().to_owned(), hint })
}

fn package(program: &str) -> &'static str {
    match program {
        "nft" => "nftables",
        "ip" => "iproute2",
        _ => "iptables",
    }
}

fn finish(child: &mut Child, input: &str, program: &str) -> Result<(ExitStatus, String, String), Error> {
    let stdin = child.stdin.take();
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let gone = |source: std::io::Error| Error::Other(format!("{program}: {source}"));
    std::thread::scope(|scope| {
        // whoever reads nothing has closed its end, which its status tells better
        scope.spawn(move || stdin.map(|mut stdin| stdin.write_all(input.as_bytes())));
        let stdout = scope.spawn(move || all_of(stdout));
        let stderr = scope.spawn(move || all_of(stderr));
        let start = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait().map_err(gone)? {
                break status;
            }
            if start.elapsed() > DEADLINE {
                child.kill().and_then(|()| child.wait()).map_err(gone)?;
                return Err(Error::Deadline { program: program.to_owned() });
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        Ok((status, stdout.join().unwrap_or_default(), stderr.join().unwrap_or_default()))
    })
}

fn all_of(pipe: Option<impl Read>) -> String {
    let mut bytes = Vec::new();
    if let Some(mut pipe) = pipe {
        // what was read before an error is still worth showing
        let _ = pipe.read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// What is in a variant's place of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Holds {
    Nothing,
    Others,
    Ours,
}

/// The three programs of one variant of iptables, for one IP version.
#[derive(Clone, Debug)]
pub struct Iptables {
    name: String,
    pub variant: Variant,
    version: [u32; 3],
    holds: Holds,
    lock: Option<String>,
}

impl Iptables {
    /// Finds the variant to use. Chains of ours begin with `prefix`; `lock` is the file that stands for the lock of legacy
    /// iptables instead of the host's.
    ///
    /// # Errors
    /// None works, or not the one that must be used.
    pub fn detect(
        family: Family,
        forced: Option<Variant>,
        prefix: &str,
        lock: Option<&str>,
    ) -> Result<Iptables, Error> {
        let base = match family {
            Family::V4 => "iptables",
            Family::V6 => "ip6tables",
        };
        let probe = |suffix: &str| Iptables::probe(&format!("{base}{suffix}"), prefix, lock);
        match forced {
            Some(Variant::Legacy) => return probe("-legacy"),
            Some(Variant::Nft) => return probe("-nft"),
            None => {}
        }
        let (legacy, nft) = (probe("-legacy"), probe("-nft"));
        let holds =
            |probed: &Result<Iptables, Error>, least| probed.as_ref().is_ok_and(|found| found.holds >= least);
        if holds(&legacy, Holds::Ours) || (holds(&legacy, Holds::Others) && !holds(&nft, Holds::Ours)) {
            return legacy;
        }
        if nft.is_ok() {
            return nft;
        }
        probe("").map_err(|plain| {
            let tried = [legacy.err(), nft.err(), Some(plain)].into_iter().flatten();
            let tried = tried.map(|error| error.to_string()).collect::<Vec<_>>().join("; ");
            Error::NoIptables { family, tried }
        })
    }

    /// Whether a variant is there and the kernel plays along.
    fn probe(name: &str, prefix: &str, lock: Option<&str>) -> Result<Iptables, Error> {
        let save = format!("{name}-save");
        let rules = run(&save, &[], "")?.stdout;
        let text = run(&save, &["--version"], "").map(|output| output.stdout).unwrap_or_default();
        let found = Iptables {
            name: name.to_owned(),
            variant: if text.contains("nf_tables") { Variant::Nft } else { Variant::Legacy },
            version: version(&text),
            holds: if rules.contains(&format!("\n:{prefix}")) {
                Holds::Ours
            } else if rules.lines().any(|line| line.starts_with("-A")) {
                // a table that was only looked at is there from then on, without rules
                Holds::Others
            } else {
                Holds::Nothing
            },
            lock: lock.map(str::to_owned),
        };
        // a rule that no packet can meet shows whether the kernel has the table
        for command in ["-A", "-D"] {
            found.write("", &["-t", "nat", command, "INPUT", "-p", "255", "-j", "RETURN"], "")?;
        }
        Ok(found)
    }

    /// What `iptables-save` prints.
    ///
    /// # Errors
    /// It fails.
    pub fn save(&self) -> Result<String, Error> {
        Ok(run(&format!("{}-save", self.name), &[], "")?.stdout)
    }

    /// Puts a text in force without touching what it does not name.
    ///
    /// # Errors
    /// It fails; a table in which it fails is unchanged.
    pub fn restore(&self, text: &str) -> Result<(), Error> {
        self.write("-restore", &["--noflush"], text)
    }

    /// Whether a rule is there: `-t TABLE -C CHAIN ...`.
    pub fn check(&self, arguments: &[String]) -> bool {
        self.write("", &arguments.iter().map(String::as_str).collect::<Vec<_>>(), "").is_ok()
    }

    fn write(&self, suffix: &str, arguments: &[&str], input: &str) -> Result<(), Error> {
        // nft has no lock; legacy can wait for its since 1.6.2, and have another since 1.8.6
        let locks = self.variant == Variant::Legacy && self.version >= [1, 6, 2];
        let mut all = arguments.to_vec();
        if locks {
            all.push("--wait=30");
        }
        let lock = self.lock.as_deref().filter(|_| locks && self.version >= [1, 8, 6]);
        run_with(&format!("{}{suffix}", self.name), &all, input, lock).map(|_| ())
    }

    /// The program's name.
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// The version in `iptables-save v1.8.9 (nf_tables)`; zeros if there is none.
fn version(text: &str) -> [u32; 3] {
    let mut version = [0; 3];
    let word = text.split_ascii_whitespace().find_map(|word| {
        word.strip_prefix('v').filter(|rest| rest.starts_with(|letter: char| letter.is_ascii_digit()))
    });
    for (place, part) in version.iter_mut().zip(word.unwrap_or_default().split('.')) {
        *place = part.parse().unwrap_or(0);
    }
    version
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        assert_eq!(version("iptables-save v1.8.9 (nf_tables)\n"), [1, 8, 9]);
        assert_eq!(version("iptables-save v1.8.10 (legacy)"), [1, 8, 10]);
        assert_eq!(version("unrecognized option"), [0; 3]);
    }

    #[test]
    fn programs_are_run() {
        assert_eq!(run("cat", &[], "text").unwrap().stdout, "text");
        // an input that nobody reads
        assert!(run("true", &[], &"x".repeat(1 << 20)).is_ok());
        let error = run("sh", &["-c", "echo no >&2; exit 3"], "").err().unwrap().to_string();
        assert!(error.contains("exit status: 3") && error.contains("no"), "{error}");
        let error = run("no-such-program", &[], "").err().unwrap().to_string();
        assert!(error.contains("install it"), "{error}");
    }
}
