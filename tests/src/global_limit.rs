//! Several proxies that share limits: the public rate limit service (github.com/envoyproxy/ratelimit, `$RATELIMIT`, built by
//! `scripts/ratelimit.sh`) with Redis, a host, and proxies whose filter asks the service.
//!
//! The service and Redis are reached over sockets in a temporary folder, so no port is fixed. What is limited is limited a year: no
//! window ends while a test lasts.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;
use tokio::net::UnixStream;

use crate::client::Client;
use crate::config::{H2_CLUSTER, HttpListener, bootstrap, cluster, fill, indent, port};
use crate::expect::{SOON, eventually};
use crate::http1::field;
use crate::process::{Binary, Proxy};
use crate::upstream::Upstream;

/// How long a program may take to start.
const START: Duration = Duration::from_secs(30);

/// A program that is killed when dropped.
#[derive(Debug)]
struct Running(Child);

impl Running {
    fn start(mut command: Command, log: &Path) -> Result<Self> {
        let log = std::fs::File::create(log)?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().with_context(|| format!("cannot start {:?}", command.get_program()))?;
        Ok(Self(child))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The service, Redis, a host, and proxies.
#[derive(Debug)]
pub struct GlobalLimit {
    proxies: Vec<Proxy>,
    _service: Running,
    _redis: Running,
    _host: Upstream,
    _dir: TempDir,
}

/// How requests were answered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Answers {
    /// 200.
    pub passed: usize,
    /// 429.
    pub limited: usize,
}

impl GlobalLimit {
    /// Starts all of it: `limit` requests a year for each value of `x-user`, whichever of `count` proxies they come through.
    ///
    /// # Errors
    /// If a program is not there or does not start.
    pub async fn start(binary: &Binary, count: usize, limit: u32) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let redis = start_redis(dir.path()).await?;
        let (service, socket) = start_service(dir.path(), limit).await?;
        let host = Upstream::start().await?;
        let text = configuration(&socket, port(host.addr()));
        let mut proxies = Vec::new();
        for _ in 0..count {
            proxies.push(Proxy::start(binary, &text).await?);
        }
        Ok(Self { proxies, _service: service, _redis: redis, _host: host, _dir: dir })
    }

    /// The proxies.
    pub fn proxies(&self) -> &[Proxy] {
        &self.proxies
    }

    /// Sends `count` requests of `user` through each proxy, through all of them at once; what each of them answered.
    ///
    /// # Errors
    /// If an answer is neither 200 nor 429, or 429 without saying what the limit is.
    pub async fn send(&self, user: &str, count: usize) -> Result<Vec<Answers>> {
        let mut sending = tokio::task::JoinSet::new();
        for (index, proxy) in self.proxies.iter().enumerate() {
            let (listener, user) = (proxy.listener("http")?, user.to_owned());
            sending.spawn(async move {
                let mut answers = Answers::default();
                let mut client = Client::connect(listener).await?;
                for _ in 0..count {
                    let request = format!("GET /api HTTP/1.1\r\nhost: api\r\nx-user: {user}\r\n\r\n");
                    client.send(request.as_bytes()).await?;
                    let head = client.response("GET", SOON).await?.head;
                    match head.status()? {
                        200 => answers.passed += 1,
                        429 => answers.limited += 1,
                        status => anyhow::bail!("status {status}"),
                    }
                    ensure!(field(&head.fields, "x-ratelimit-limit").is_some(), "no limit is told");
                }
                Ok((index, answers))
            });
        }
        let mut all = vec![Answers::default(); self.proxies.len()];
        while let Some(sent) = sending.join_next().await {
            let (index, answers) = sent??;
            all[index] = answers;
        }
        Ok(all)
    }
}

async fn start_redis(dir: &Path) -> Result<Running> {
    let socket = dir.join("redis.sock");
    let mut command = Command::new("redis-server");
    command
        .args(["--port", "0", "--save", "", "--appendonly", "no", "--unixsocket"])
        .arg(&socket)
        .arg("--dir")
        .arg(dir);
    let redis = Running::start(command, &dir.join("redis.log"))?;
    answers(&socket, "Redis").await?;
    Ok(redis)
}

async fn start_service(dir: &Path, limit: u32) -> Result<(Running, PathBuf)> {
    let config = dir.join("runtime/ratelimit/config");
    std::fs::create_dir_all(&config)?;
    let descriptor = format!("- key: user\n  rate_limit: {{unit: year, requests_per_unit: {limit}}}\n");
    std::fs::write(config.join("demo.yaml"), format!("domain: demo\ndescriptors:\n{descriptor}"))?;
    let socket = dir.join("ratelimit.sock");
    let program =
        std::env::var_os("RATELIMIT").context("RATELIMIT is not set: run `scripts/ratelimit.sh`")?;
    let mut command = Command::new(program);
    command
        .env("GRPC_UDS", &socket)
        .envs([("HOST", "127.0.0.1"), ("PORT", "0"), ("DEBUG_HOST", "127.0.0.1"), ("DEBUG_PORT", "0")])
        .envs([("USE_STATSD", "false"), ("LOG_LEVEL", "warn"), ("REDIS_SOCKET_TYPE", "unix")])
        .envs([("RUNTIME_SUBDIRECTORY", "ratelimit"), ("RUNTIME_WATCH_ROOT", "false")])
        .env("RUNTIME_ROOT", dir.join("runtime"))
        .env("REDIS_URL", dir.join("redis.sock"));
    let service = Running::start(command, &dir.join("ratelimit.log"))?;
    answers(&socket, "the rate limit service")
        .await
        .with_context(|| std::fs::read_to_string(dir.join("ratelimit.log")).unwrap_or_default())?;
    Ok((service, socket))
}

/// Waits until somebody listens at `socket`.
async fn answers(socket: &Path, who: &str) -> Result<()> {
    eventually(who, START, async || UnixStream::connect(socket).await.ok()).await.map(drop)
}

fn configuration(socket: &Path, host: String) -> String {
    let service = format!(
        "- name: limits\n  type: STATIC\n  connect_timeout: 1s\n  load_assignment:\n    cluster_name: limits\n    endpoints:\n    - lb_endpoints:\n      - endpoint: {{address: {{pipe: {{path: '{}'}}}}}}\n{}",
        socket.display(),
        indent(H2_CLUSTER, 2)
    );
    let filter = "- name: envoy.filters.http.ratelimit
  typed_config:
    \"@type\": type.googleapis.com/envoy.extensions.filters.http.ratelimit.v3.RateLimit
    domain: demo
    timeout: 5s
    failure_mode_deny: true
    enable_x_ratelimit_headers: DRAFT_VERSION_03
    rate_limit_service: {transport_api_version: V3, grpc_service: {envoy_grpc: {cluster_name: limits}}}
";
    let routes = "- match: {prefix: /}\n  route: {cluster: up, rate_limits: [{actions: [{request_headers: {header_name: x-user, descriptor_key: user}}]}]}\n";
    let listener = HttpListener::new("http", routes).filters(filter).yaml();
    fill(&bootstrap(&[listener], &[cluster("up", "up", ""), service], ""), [("up", host)])
}
