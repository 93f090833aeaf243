//! The backend and the proxies as processes.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::options::Options;

const START: Duration = Duration::from_secs(60);

/// Who is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Peer {
    Outrigger,
    Envoy,
    Haproxy,
    Nginx,
}

impl Peer {
    pub(crate) const ALL: [Self; 4] = [Self::Outrigger, Self::Envoy, Self::Haproxy, Self::Nginx];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Outrigger => "outrigger",
            Self::Envoy => "envoy",
            Self::Haproxy => "haproxy",
            Self::Nginx => "nginx",
        }
    }

    /// Starts it with this configuration.
    pub(crate) fn spawn(
        self,
        dir: TempDir,
        config: &str,
        workers: usize,
        options: &Options,
    ) -> Result<Process> {
        let workers = workers.to_string();
        let args: &[&str] = match self {
            Self::Outrigger | Self::Envoy => {
                &["-c", config, "--concurrency", &workers, "--disable-hot-restart", "-l", "error"]
            }
            Self::Haproxy => &["-db", "-f", config],
            Self::Nginx => &["-c", config],
        };
        Process::spawn(dir, &self.binary(options)?, args)
    }

    /// Its program.
    pub(crate) fn binary(self, options: &Options) -> Result<PathBuf> {
        match self {
            Self::Outrigger => Ok(options.outrigger.clone()),
            Self::Envoy => program("ENVOY"),
            Self::Haproxy => program("HAPROXY"),
            Self::Nginx => program("NGINX"),
        }
    }
}

/// The path of a program that `scripts/peers.sh` names.
pub(crate) fn program(variable: &str) -> Result<PathBuf> {
    let path = std::env::var_os(variable);
    path.map(PathBuf::from)
        .with_context(|| format!("{variable} is not set: eval \"$(scripts/peers.sh)\" first"))
}

/// A child process; killed with SIGTERM, then for good, when dropped.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    pub(crate) dir: TempDir,
}

impl Process {
    /// Starts a program; what it prints goes to a file in `dir`.
    pub(crate) fn spawn(dir: TempDir, program: &Path, args: &[&str]) -> Result<Self> {
        let log = File::create(dir.path().join("output.log"))?;
        let child = Command::new(program)
            .args(args)
            .current_dir(dir.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        Ok(Self { child, dir })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until a GET of `path` is answered with 200.
    pub(crate) fn answers(&mut self, port: u16, path: &str) -> Result<()> {
        let start = Instant::now();
        loop {
            if get(port, path).is_ok() {
                return Ok(());
            }
            let ended = self.child.try_wait()?;
            if ended.is_some() || start.elapsed() > START {
                let log = std::fs::read_to_string(self.dir.path().join("output.log")).unwrap_or_default();
                let tail: Vec<&str> = log.lines().rev().take(5).collect();
                bail!("no 200 on port {port} ({ended:?}): {tail:?}");
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(pid) = i32::try_from(self.pid()).ok().and_then(rustix::process::Pid::from_raw) {
            // nginx's master takes its workers along only when asked
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let start = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) && start.elapsed() < Duration::from_secs(3) {
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn get(port: u16, path: &str) -> Result<()> {
    let mut stream =
        TcpStream::connect_timeout(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)), Duration::from_secs(2))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n").as_bytes())?;
    let mut start = [0; 12];
    stream.read_exact(&mut start)?;
    anyhow::ensure!(start.ends_with(b" 200"), "not 200");
    Ok(())
}

/// Ports that were free a moment ago; programs that cannot say which port the kernel chose need them.
pub(crate) fn free_ports<const N: usize>() -> Result<[u16; N]> {
    let mut ports = [0; N];
    let mut held = Vec::new();
    for port in &mut ports {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        *port = listener.local_addr()?.port();
        held.push(listener);
    }
    Ok(ports)
}

/// One for the files of a process.
pub(crate) fn folder() -> Result<TempDir> {
    Ok(tempfile::Builder::new().prefix("outrigger-bench-").tempdir()?)
}

/// A text with `@NAME@` replaced.
pub(crate) fn fill(text: &str, values: &[(&str, String)]) -> String {
    values.iter().fold(text.to_owned(), |text, (name, value)| text.replace(&format!("@{name}@"), value))
}

/// What every nginx here needs: folders of its own, and the right to read them.
fn nginx_head(dir: &Path, workers: usize) -> String {
    let user = if rustix::process::getuid().is_root() { "user root;\n" } else { "" };
    let dir = dir.display();
    let temp: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|name| format!("  {name}_temp_path {dir}/{name};\n"))
        .collect();
    format!(
        "{user}daemon off;\nworker_processes {workers};\nworker_rlimit_nofile 20000;\npid {dir}/pid;\nerror_log {dir}/error.log;\n\
         events {{ worker_connections 16384; }}\nhttp {{\n  access_log off;\n  keepalive_requests 100000000;\n  keepalive_timeout 3600s;\n{temp}"
    )
}

/// The nginx that answers everything: 51 bytes on `/`, 1 MiB on `/big/1m`, over HTTP/1 and HTTP/2.
#[derive(Debug)]
pub(crate) struct Backend {
    _process: Process,
    pub(crate) h1: u16,
    pub(crate) h2: u16,
}

impl Backend {
    /// It answers HTTP/1 on that many addresses, from 127.0.0.1 on.
    pub(crate) const ADDRESSES: u8 = 9;

    pub(crate) fn start() -> Result<Self> {
        let dir = folder()?;
        let [h1, h2] = free_ports()?;
        let big = dir.path().join("www/big");
        std::fs::create_dir_all(&big)?;
        std::fs::write(big.join("1m"), vec![b'x'; 1 << 20])?;
        let www = dir.path().join("www").display().to_string();
        let listen: String =
            (1..=Self::ADDRESSES).map(|at| format!("    listen 127.0.0.{at}:{h1} backlog=4096;\n")).collect();
        let config = format!(
            "{}  default_type text/plain;\n  http2_max_concurrent_streams 1024;\n  \
             server {{\n{listen}    listen 127.0.0.1:{h2} http2 backlog=4096;\n    \
             location / {{ return 200 \"hello world, this is a small body from the backend\\n\"; }}\n    \
             location /big {{ root {www}; }}\n  }}\n}}\n",
            nginx_head(dir.path(), 1)
        );
        let path = dir.path().join("nginx.conf");
        std::fs::write(&path, config)?;
        let path = path.display().to_string();
        let mut process = Process::spawn(dir, &program("NGINX")?, &["-c", &path])?;
        process.answers(h1, "/").context("backend")?;
        Ok(Self { _process: process, h1, h2 })
    }
}

/// Where a proxy listens for what.
#[derive(Debug)]
pub(crate) struct Ports {
    pub(crate) h1: u16,
    pub(crate) h1_rich: u16,
    pub(crate) h2: u16,
    pub(crate) h2_to_h1: u16,
    pub(crate) h1_to_h2: u16,
    pub(crate) tcp: u16,
}

/// A proxy that is ready.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) peer: Peer,
    process: Process,
    pub(crate) ports: Ports,
    /// How long it took to be.
    pub(crate) ready: Duration,
}

impl Running {
    /// Starts a proxy in front of the backend and waits until it forwards a request.
    pub(crate) fn start(peer: Peer, options: &Options, backend: &Backend, workers: usize) -> Result<Self> {
        let dir = folder()?;
        let [h1, h1_rich, h2, h2_to_h1, h1_to_h2, tcp, admin] = free_ports()?;
        let values = [
            ("H1", h1.to_string()),
            ("H1_RICH", h1_rich.to_string()),
            ("H2", h2.to_string()),
            ("H2_TO_H1", h2_to_h1.to_string()),
            ("H1_TO_H2", h1_to_h2.to_string()),
            ("TCP", tcp.to_string()),
            ("ADMIN", admin.to_string()),
            ("BACKEND_H1", backend.h1.to_string()),
            ("BACKEND_H2", backend.h2.to_string()),
            ("LOG", dir.path().join("access.log").display().to_string()),
            ("WORKERS", workers.to_string()),
        ];
        let (file, text) = match peer {
            Peer::Outrigger | Peer::Envoy => ("envoy.yaml", include_str!("../configs/envoy.yaml").to_owned()),
            Peer::Haproxy => ("haproxy.cfg", include_str!("../configs/haproxy.cfg").to_owned()),
            Peer::Nginx => {
                let head = nginx_head(dir.path(), workers);
                ("nginx.conf", head + include_str!("../configs/nginx.conf"))
            }
        };
        let path = dir.path().join(file);
        std::fs::write(&path, fill(&text, &values))?;
        let path = path.display().to_string();
        let start = Instant::now();
        let mut process = peer.spawn(dir, &path, workers, options)?;
        match peer {
            Peer::Outrigger | Peer::Envoy => process.answers(admin, "/ready")?,
            Peer::Haproxy | Peer::Nginx => process.answers(h1, "/")?,
        }
        let ready = start.elapsed();
        process.answers(h1, "/")?;
        Ok(Self { peer, process, ports: Ports { h1, h1_rich, h2, h2_to_h1, h1_to_h2, tcp }, ready })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }
}
