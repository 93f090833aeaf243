//! Starting and stopping a program that takes Envoy's command line: Envoy itself, or Outrigger.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use tempfile::TempDir;

use crate::admin::Admin;
use crate::expect::{SOON, eventually};

/// How long a start may take; a debug build on a busy machine is slow.
const START: Duration = Duration::from_secs(30);

/// Which program a binary is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Envoy,
    Outrigger,
}

/// A program to start.
#[derive(Debug, Clone)]
pub struct Binary {
    pub kind: Kind,
    pub path: PathBuf,
}

impl Binary {
    /// The real Envoy: `$ENVOY`, or where `scripts/peers.sh` puts it.
    pub fn envoy() -> Result<Self> {
        let path = match std::env::var_os("ENVOY") {
            Some(path) => PathBuf::from(path),
            None => installed_envoy()
                .context("no Envoy here: run `scripts/peers.sh envoy`, or set ENVOY to its path")?,
        };
        ensure!(path.is_file(), "{} is not a file", path.display());
        Ok(Self { kind: Kind::Envoy, path })
    }

    /// The one under test: Outrigger, or with `SUBJECT=envoy` the real Envoy, which proves the test itself.
    pub fn subject() -> Result<Self> {
        match std::env::var("SUBJECT").as_deref() {
            Err(std::env::VarError::NotPresent) | Ok("outrigger") => Self::outrigger(),
            Ok("envoy") => Self::envoy(),
            other => bail!("SUBJECT is {other:?}: outrigger or envoy"),
        }
    }

    /// Our own: `$OUTRIGGER`, or the binary of the profile that this test was built with, built now if it is stale.
    pub fn outrigger() -> Result<Self> {
        static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
        if let Some(path) = std::env::var_os("OUTRIGGER") {
            return Ok(Self { kind: Kind::Outrigger, path: PathBuf::from(path) });
        }
        let folder = build_folder()?;
        let path = BUILT.get_or_init(|| build_outrigger(&folder).map_err(|error| format!("{error:#}")));
        let path = path.clone().map_err(|error| anyhow!("{error}"))?;
        Ok(Self { kind: Kind::Outrigger, path })
    }

    /// Our own as built for development, with its debug assertions, whatever else is under test.
    pub fn debug() -> Result<Self> {
        static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
        let folder = build_folder()?.with_file_name("debug");
        let path = BUILT.get_or_init(|| build_outrigger(&folder).map_err(|error| format!("{error:#}")));
        let path = path.clone().map_err(|error| anyhow!("{error}"))?;
        Ok(Self { kind: Kind::Outrigger, path })
    }

    /// Runs `--mode validate` on a bootstrap (`{{dir}}` in it is a temporary folder); whether it was accepted, and everything that was printed.
    pub fn validate(&self, bootstrap: &str) -> Result<Verdict> {
        let dir = tempfile::tempdir()?;
        let config = dir.path().join("bootstrap.yaml");
        let folder = dir.path().to_str().context("temporary folder is not UTF-8")?;
        std::fs::write(&config, bootstrap.replace("{{dir}}", folder))?;
        self.validate_file(&config)
    }

    /// Like [`Binary::validate`], for a file as it is, with the root of the repository as working directory.
    pub fn validate_file(&self, config: &Path) -> Result<Verdict> {
        let output = Command::new(&self.path)
            .args(["--mode", "validate", "--concurrency", "1", "--disable-hot-restart", "-c"])
            .arg(config)
            .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("cannot run {}", self.path.display()))?;
        let text =
            format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        Ok(Verdict { accepted: output.status.success(), code: output.status.code(), text })
    }
}

/// What `--mode validate` said.
#[derive(Debug, Clone)]
pub struct Verdict {
    pub accepted: bool,
    /// The exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    pub text: String,
}

fn installed_envoy() -> Option<PathBuf> {
    let cache = match std::env::var_os("XDG_CACHE_HOME") {
        Some(cache) => PathBuf::from(cache),
        None => PathBuf::from(std::env::var_os("HOME")?).join(".cache"),
    };
    let lib = cache.join("outrigger/peers/envoy-1.40.0/lib");
    let pythons = std::fs::read_dir(lib).ok()?.filter_map(Result::ok);
    pythons.map(|python| python.path().join("site-packages/envoy/_bin/envoy")).find(|path| path.is_file())
}

/// Where cargo put this test, and puts the binary of the same profile.
pub fn build_folder() -> Result<PathBuf> {
    let me = std::env::current_exe()?;
    let folder = me.ancestors().find(|path| path.join("deps").is_dir());
    Ok(folder.context("not inside a target folder")?.to_owned())
}

/// `cargo test` does not build another package's binary, and a stale one would prove nothing: so it is built here.
fn build_outrigger(folder: &Path) -> Result<PathBuf> {
    build(folder, "outrigger")
}

/// The program `outrigger-iptables`, built now if it is stale.
pub fn outrigger_iptables() -> Result<PathBuf> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let folder = build_folder()?;
    let path =
        BUILT.get_or_init(|| build(&folder, "outrigger-iptables").map_err(|error| format!("{error:#}")));
    path.clone().map_err(|error| anyhow!("{error}"))
}

/// Selects what `cargo test --workspace` selects, with a test (the smallest) among it: so the features of dependencies are
/// those of the tests, and what the tests were built from is not built once more.
fn build(folder: &Path, program: &str) -> Result<PathBuf> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--quiet", "--workspace", "--bin", program, "--test", "layers"]);
    cargo.current_dir(env!("CARGO_MANIFEST_DIR"));
    if folder.ends_with("release") {
        cargo.arg("--release");
    }
    let output = cargo.output().context("cannot run cargo")?;
    ensure!(
        output.status.success(),
        "building {program} failed:\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(folder.join(program))
}

/// A running proxy; killed when dropped.
#[derive(Debug)]
pub struct Proxy {
    child: Child,
    dir: TempDir,
    admin: Admin,
    listeners: BTreeMap<String, SocketAddr>,
    kind: Kind,
}

impl Proxy {
    /// Starts `binary` with `bootstrap` and waits until it is live. In the bootstrap, `{{dir}}` is a folder of its own
    /// (for access logs and the like). Further command-line words come from `extra`; unless they say otherwise, there is
    /// one worker, and access logs are written every few milliseconds.
    ///
    /// # Errors
    /// With everything the program printed, if it ends or does not become live in time.
    pub async fn start_with(binary: &Binary, bootstrap: &str, extra: &[&str]) -> Result<Self> {
        Self::spawn(binary, bootstrap, extra)?.live().await
    }

    /// [`Proxy::start_with`], but waits for nothing.
    ///
    /// # Errors
    /// It could not be started.
    pub fn spawn(binary: &Binary, bootstrap: &str, extra: &[&str]) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("outrigger-test-").tempdir()?;
        let folder = dir.path().to_str().context("temporary folder is not UTF-8")?.to_owned();
        let config = dir.path().join("bootstrap.yaml");
        std::fs::write(&config, bootstrap.replace("{{dir}}", &folder))?;
        let log = File::create(dir.path().join("output.log"))?;
        let default = |words: &'static [&'static str]| match extra.contains(&words[0]) {
            true => &[],
            false => words,
        };
        let child = Command::new(&binary.path)
            // Backtraces are long, and tests read the log.
            .env_remove("RUST_BACKTRACE")
            .arg("-c")
            .arg(&config)
            .arg("--admin-address-path")
            .arg(dir.path().join("admin.addr"))
            .arg("--disable-hot-restart")
            .args(default(&["--file-flush-interval-msec", "5"]))
            .args(default(&["--concurrency", "1"]))
            .args(extra)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {}", binary.path.display()))?;
        let nowhere = Admin::new(SocketAddr::from(([127, 0, 0, 1], 0)));
        Ok(Self { child, dir, admin: nowhere, listeners: BTreeMap::new(), kind: binary.kind })
    }

    /// Waits until it is live.
    ///
    /// # Errors
    /// With everything the program printed, if it ends or does not become live in time.
    pub async fn live(mut self) -> Result<Self> {
        match self.become_live().await {
            Ok(()) => Ok(self),
            Err(error) => Err(error.context(format!("{:?} did not start:\n{}", self.kind, self.log_tail()))),
        }
    }

    /// [`Proxy::start_with`] without further words.
    pub async fn start(binary: &Binary, bootstrap: &str) -> Result<Self> {
        Self::start_with(binary, bootstrap, &[]).await
    }

    async fn become_live(&mut self) -> Result<()> {
        let path = self.dir.path().join("admin.addr");
        let addr = eventually("the admin address", START, async || {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Some(Err(anyhow!("it ended with {status}")));
            }
            std::fs::read_to_string(&path).ok()?.trim().parse::<SocketAddr>().ok().map(Ok)
        })
        .await??;
        self.admin = Admin::new(addr);
        eventually("/ready", START, async || {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Some(Err(anyhow!("it ended with {status}")));
            }
            self.admin.live().await.then_some(Ok(()))
        })
        .await??;
        self.listeners = self.admin.listeners().await?;
        Ok(())
    }

    /// Which program it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Its admin interface.
    pub fn admin(&self) -> Admin {
        self.admin
    }

    /// Where the listener of that name accepts.
    pub fn listener(&self, name: &str) -> Result<SocketAddr> {
        self.listeners
            .get(name)
            .copied()
            .with_context(|| format!("no listener {name:?} in {:?}", self.listeners))
    }

    /// All listeners by name, as they were when it became live.
    pub fn listeners(&self) -> &BTreeMap<String, SocketAddr> {
        &self.listeners
    }

    /// The folder that `{{dir}}` in the bootstrap stands for.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether the process still runs.
    pub fn alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Everything that it printed.
    pub fn log(&self) -> String {
        std::fs::read(self.dir.path().join("output.log"))
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// The end of what it printed, for error messages.
    pub fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(25)..].join("\n")
    }

    /// Resident memory in KiB, from `/proc`.
    pub fn resident_kib(&self) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        line.trim().trim_end_matches(" kB").parse().context("VmRSS")
    }

    /// Sends a signal.
    pub fn signal(&self, signal: rustix::process::Signal) -> Result<()> {
        let pid = rustix::process::Pid::from_raw(i32::try_from(self.pid())?).context("pid 0")?;
        Ok(rustix::process::kill_process(pid, signal)?)
    }

    /// Waits until the process has ended by itself; its exit code.
    pub async fn ended(&mut self, limit: Duration) -> Result<i32> {
        let status =
            eventually("the end of the process", limit, async || self.child.try_wait().ok().flatten())
                .await?;
        status.code().with_context(|| format!("ended by a signal: {status}"))
    }

    /// SIGTERM, and waits for the end; fails if it does not exit with 0.
    pub async fn stop(mut self) -> Result<()> {
        self.signal(rustix::process::Signal::TERM)?;
        let code = self.ended(SOON).await?;
        if code != 0 {
            bail!("exit code {code}:\n{}", self.log_tail());
        }
        Ok(())
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
