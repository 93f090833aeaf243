//! A pod: a network namespace with workloads, a proxy, and rules of the kernel that lead the one's traffic to the other.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process_group};
use tempfile::TempDir;
use tokio::runtime::Handle;

use super::programs::{self, Program};
use crate::admin::Admin;
use crate::expect::SOON;
use crate::netns::{Netns, User};
use crate::process::{Binary, Proxy};

/// Whose the workloads are.
pub const WORKLOAD: User = User::new(1000);
/// Whose the proxies are, as injectors of Istio have it.
pub const PROXY: User = User::new(1337);

/// Whose those with transparent sockets are: they have to administer the network, and Istio's rules take connections in the name of
/// a client for the client's own unless root makes them.
pub const TRANSPARENT_PROXY: User = User { uid: 0, gid: 1337 };

/// Addresses of each family of one thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    pub v4: Ipv4Addr,
    pub v6: Ipv6Addr,
}

impl Addresses {
    /// Both.
    pub fn each(self) -> [IpAddr; 2] {
        [self.v4.into(), self.v6.into()]
    }
}

/// A program that runs in a pod, killed when this is dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
    dir: TempDir,
}

impl Running {
    /// What it said until now.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Some have children of their own.
        if let Some(group) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = self.child.wait();
    }
}

/// A pod. See the module's documentation.
#[derive(Debug)]
pub struct Pod {
    pub name: String,
    pub addresses: Addresses,
    pub netns: Netns,
    pub workloads: Vec<Running>,
    pub proxy: Option<Proxy>,
}

impl Pod {
    /// Does something in the pod as one of its users.
    pub fn inside<T: Send>(&self, user: User, work: impl FnOnce() -> T + Send) -> Result<T> {
        let become_and_work = || -> Result<T> {
            user.become_one()?;
            Ok(work())
        };
        tokio::task::block_in_place(|| self.netns.within(become_and_work))?
    }

    /// Does something that waits, in the pod, as root.
    pub fn wait_inside<T: Send, F: Future<Output = T>>(&self, work: impl FnOnce() -> F + Send) -> Result<T> {
        let handle = Handle::current();
        tokio::task::block_in_place(|| self.netns.within(|| handle.block_on(work())))
    }

    /// Starts a workload and waits until it accepts connections.
    pub fn run(&mut self, program: Program, port: u16) -> Result<()> {
        let start = || -> Result<Running> {
            let dir = tempfile::Builder::new().prefix("outrigger-workload-").tempdir()?;
            let log = File::create(dir.path().join("log"))?;
            let path = format!("{}:/usr/sbin", std::env::var("PATH").unwrap_or_default());
            let mut command = program.command(dir.path(), port)?;
            command.env("PATH", path).current_dir(dir.path()).stdin(Stdio::null());
            command.stdout(log.try_clone()?).stderr(log).process_group(0);
            let child = command.spawn().with_context(|| {
                format!("cannot run {}: scripts/sidecar.sh installs it", command.get_program().display())
            })?;
            let mut running = Running { child, dir };
            let at = SocketAddr::from((program.ip(), port));
            let deadline = std::time::Instant::now() + 3 * SOON;
            while TcpStream::connect(at).is_err() {
                let ended = running.child.try_wait()?;
                ensure!(ended.is_none(), "{program:?} ended: {}", running.log());
                ensure!(
                    std::time::Instant::now() < deadline,
                    "{program:?} does not listen: {}",
                    running.log()
                );
                std::thread::sleep(Duration::from_millis(5));
            }
            Ok(running)
        };
        let running = self.inside(WORKLOAD, start)??;
        self.workloads.push(running);
        Ok(())
    }

    /// Runs `outrigger-iptables` in the pod, as an injector would.
    pub fn redirect(&self, flags: &str) -> Result<()> {
        let mut command = Command::new(crate::process::outrigger_iptables()?);
        command.args(flags.split_whitespace());
        let output = tokio::task::block_in_place(|| self.netns.run(&mut command))?;
        ensure!(output.status.success(), "{flags}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    /// Starts the proxy as `user`. (Root asks whether it is live: OSM's rules may lead what the proxy's user says to 127.0.0.1 elsewhere.)
    pub fn start_proxy(
        &mut self,
        binary: &Binary,
        bootstrap: &str,
        user: User,
        words: &[&str],
    ) -> Result<()> {
        let proxy = self.inside(user, || Proxy::spawn(binary, bootstrap, words))?;
        let proxy = proxy.and_then(|proxy| self.wait_inside(|| proxy.live())?);
        self.proxy = Some(proxy.with_context(|| format!("the proxy of {}", self.name))?);
        Ok(())
    }

    /// The proxy that was started.
    pub fn proxy(&self) -> Result<&Proxy> {
        self.proxy.as_ref().with_context(|| format!("{} has no proxy", self.name))
    }

    /// Stops the proxy, which must end well.
    pub async fn stop_proxy(&mut self) -> Result<()> {
        match self.proxy.take() {
            Some(proxy) => proxy.stop().await,
            None => Ok(()),
        }
    }

    /// Asks the proxy's administration.
    pub fn admin<T: Send, F: Future<Output = T>>(&self, ask: impl FnOnce(Admin) -> F + Send) -> Result<T> {
        let admin = self.proxy()?.admin();
        self.wait_inside(|| ask(admin))
    }

    /// A counter or gauge of the proxy by its very name; 0 while it does not exist.
    pub fn stat(&self, name: &str) -> Result<i64> {
        let text = self.admin(async |admin| admin.get("/stats").await)??;
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        Ok(value.map(str::parse).transpose()?.unwrap_or(0))
    }

    /// What curl prints for these words, and after a bar the status (`000` if there was none).
    pub fn curl(&self, words: &[&str]) -> Result<String> {
        let mut command = Command::new("curl");
        command.args(["--silent", "--max-time", "20", "--write-out", "|%{http_code}"]).args(words);
        self.say(&mut command)
    }

    /// What a call of the gRPC server is answered.
    pub fn grpc(&self, target: SocketAddr, word: &str) -> Result<String> {
        self.say(&mut programs::grpc_client(&target.to_string(), word, false))
    }

    /// What a call of the gRPC server that speaks TLS itself is answered.
    pub fn grpc_over_tls(&self, target: SocketAddr, word: &str) -> Result<String> {
        self.say(&mut programs::grpc_client(&target.to_string(), word, true))
    }

    fn say(&self, command: &mut Command) -> Result<String> {
        let output = self.inside(WORKLOAD, || command.output())?;
        let output = output.with_context(|| format!("cannot run {}", command.get_program().display()))?;
        Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
    }

    /// Connects as the workload would, sends, half-closes, and gives all that comes back; an error if the connection was
    /// not made or not ended in order.
    pub fn tcp(&self, to: SocketAddr, send: &[u8]) -> Result<String> {
        Ok(String::from_utf8_lossy(&self.bytes(to, send)?).into_owned())
    }

    /// [`Pod::tcp`] for what is no text.
    pub fn bytes(&self, to: SocketAddr, send: &[u8]) -> Result<Vec<u8>> {
        let converse = || -> std::io::Result<Vec<u8>> {
            let mut stream = TcpStream::connect_timeout(&to, SOON)?;
            stream.set_read_timeout(Some(SOON))?;
            stream.write_all(send)?;
            stream.shutdown(Shutdown::Write)?;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer)?;
            Ok(answer)
        };
        Ok(self.inside(WORKLOAD, converse)??)
    }

    /// Connects, says nothing, and gives the first line that comes.
    pub fn hear(&self, to: SocketAddr) -> Result<String> {
        self.ask(to, "")
    }

    /// Connects, says this, and gives the first line that comes.
    pub fn ask(&self, to: SocketAddr, say: &str) -> Result<String> {
        let ask = || -> std::io::Result<String> {
            let mut stream = TcpStream::connect_timeout(&to, SOON)?;
            stream.set_read_timeout(Some(SOON))?;
            stream.write_all(say.as_bytes())?;
            let mut line = String::new();
            BufReader::new(stream).read_line(&mut line)?;
            Ok(line)
        };
        Ok(self.inside(WORKLOAD, ask)??)
    }
}

/// Makes a program available to every user, whose own folder may be root's alone: a copy without bytes where it can be.
pub fn share(program: &Path, folder: &Path) -> Result<std::path::PathBuf> {
    let shared = folder.join(program.file_name().context("a program without a name")?);
    if std::fs::hard_link(program, &shared).is_err() {
        std::fs::copy(program, &shared)?;
    }
    Ok(shared)
}
