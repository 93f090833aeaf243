//! One cluster of many gets a new endpoint over a delta ADS stream: the time from the arrival of the update at the proxy
//! until the answer to the first request that went to the new endpoint.
//!
//! A relay between management server and proxy sees the update pass, so what the server needs to find out what has changed
//! is not counted. Clients ask without pause meanwhile, on one connection.

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use prost::{Message, Name};
use prost_types::Any;
use xds::TypeUrl;
use xds::fake::{ManagementServer, Served};
use xds_api::envoy::config::cluster::v3::Cluster;
use xds_api::envoy::config::endpoint::v3::ClusterLoadAssignment;
use xds_api::read::{Options as ReadOptions, Source, read};

use crate::options::{Measure, Options, Part};
use crate::peers::{Peer, Process, fill, free_ports};
use crate::report::Report;
use crate::say;

/// How long the first configuration, or an update, may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Adds one sample per update and peer.
pub(crate) fn measure(options: &Options, report: &mut Report) -> Result<()> {
    for peer in [Peer::Outrigger, Peer::Envoy].into_iter().filter(|peer| options.peers.contains(peer)) {
        let samples = run(peer, options);
        report.add_all(Measure::Endpoints, peer, samples);
    }
    say("endpoints done");
    Ok(())
}

fn run(peer: Peer, options: &Options) -> Result<Vec<(Part, f64)>> {
    let count = options.many_clusters();
    let (old, new) = (answering("old")?, answering("new")?);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let server = runtime.block_on(ManagementServer::start())?;
    let clusters: Result<Vec<Served>> = (0..count).map(cluster).collect();
    let mut assignments: Vec<Served> = (0..count).map(|at| assignment(at, old)).collect::<Result<_>>()?;
    server.set_all([
        (TypeUrl::CLUSTER, "0", clusters?),
        (TypeUrl::CLUSTER_LOAD_ASSIGNMENT, "0", assignments.clone()),
    ]);
    let relay = Relay::start(server.address())?;
    let (_process, port) = start(peer, options, relay.port)?;
    let mut client = Client::new(port)?;
    for at in 0..count {
        client.until(at, "old")?;
    }
    let updates = if options.quick { 5 } else { 20 };
    let mut values = vec![(Part::Count, count as f64)];
    for update in 0..updates {
        let at = (update * count) / updates;
        assignments[at] = assignment(at, new)?;
        // whatever was still on its way is through, and the upstream connections of the cluster stand
        client.until(at, "old")?;
        relay.forget();
        let all = assignments.clone();
        let version = (update + 1).to_string();
        server.set(&TypeUrl::CLUSTER_LOAD_ASSIGNMENT, &version, all);
        let routed = client.until(at, "new")?;
        let arrival = relay.seen().context("the update did not pass the relay")?;
        values.push((Part::Main, (routed - arrival).as_secs_f64() * 1e3));
    }
    Ok(values)
}

fn served<M: Message + Name + Default>(yaml: &str) -> Result<Served> {
    let message = read::<M>(&Source::yaml("bench", yaml.as_bytes()), &ReadOptions::default())?.message;
    let type_url = format!("type.googleapis.com/{}", M::full_name());
    Ok(Served::new(Any { type_url, value: message.encode_to_vec() }))
}

fn cluster(at: usize) -> Result<Served> {
    served::<Cluster>(&format!(
        "{{name: cluster{at}, connect_timeout: 1s, type: EDS, eds_cluster_config: {{eds_config: {{resource_api_version: V3, ads: {{}}}}}}}}"
    ))
}

fn assignment(at: usize, port: u16) -> Result<Served> {
    served::<ClusterLoadAssignment>(&format!(
        "{{cluster_name: cluster{at}, endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}}}}}]}}]}}"
    ))
}

/// A proxy with one listener, where a header says which cluster to take.
fn start(peer: Peer, options: &Options, management: u16) -> Result<(Process, u16)> {
    let [admin, http] = free_ports()?;
    let dir = tempfile::Builder::new().prefix("outrigger-bench-").tempdir()?;
    let path = dir.path().join("bootstrap.yaml");
    let values =
        [("ADMIN", admin.to_string()), ("HTTP", http.to_string()), ("MANAGEMENT", management.to_string())];
    std::fs::write(&path, fill(include_str!("../configs/endpoints.yaml"), &values))?;
    let path = path.display().to_string();
    let args = ["-c", &path, "--concurrency", "1", "--disable-hot-restart", "-l", "error"];
    let mut process = Process::spawn(dir, &peer.binary(options)?, &args)?;
    process.answers(admin, "/ready")?;
    Ok((process, http))
}

/// An upstream that answers everything with one word; ends with the process.
fn answering(word: &'static str) -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let port = listener.local_addr()?.port();
    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{word}", word.len());
    let serve = move |mut stream: TcpStream| {
        let answer = answer.clone();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            // one request without a body at a time: it arrives in one piece
            while stream.read(&mut buffer).is_ok_and(|count| count > 0)
                && stream.write_all(answer.as_bytes()).is_ok()
            {}
        });
    };
    std::thread::spawn(move || listener.incoming().flatten().for_each(serve));
    Ok(port)
}

/// Passes bytes on between a proxy and the management server, and remembers when the server last began to speak.
struct Relay {
    port: u16,
    seen: Arc<Mutex<Option<Instant>>>,
}

impl Relay {
    fn start(server: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        let seen = Arc::new(Mutex::new(None));
        let sees = seen.clone();
        std::thread::spawn(move || {
            for down in listener.incoming().flatten() {
                let Ok(up) = TcpStream::connect(server) else { return };
                let _ = (down.set_nodelay(true), up.set_nodelay(true));
                let (Ok(down_too), Ok(up_too)) = (down.try_clone(), up.try_clone()) else { return };
                std::thread::spawn(move || pass_on(down_too, up_too, None));
                let sees = sees.clone();
                std::thread::spawn(move || pass_on(up, down, Some(&sees)));
            }
        });
        Ok(Self { port, seen })
    }

    fn forget(&self) {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn seen(&self) -> Option<Instant> {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn pass_on(mut from: TcpStream, mut to: TcpStream, seen: Option<&Mutex<Option<Instant>>>) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        if let Some(seen) = seen {
            seen.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(Instant::now);
        }
        if to.write_all(&buffer[..count]).is_err() {
            return;
        }
    }
}

/// One connection to the proxy.
struct Client {
    stream: TcpStream,
    request: String,
    buffer: Vec<u8>,
}

impl Client {
    fn new(port: u16) -> Result<Self> {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { stream, request: String::new(), buffer: vec![0; 4096] })
    }

    /// Asks for a cluster until the answer is `word`; when it came.
    fn until(&mut self, cluster: usize, word: &str) -> Result<Instant> {
        let start = Instant::now();
        while self.ask(cluster)? != word {
            ensure!(start.elapsed() < PATIENCE, "cluster{cluster} did not become {word}");
        }
        Ok(Instant::now())
    }

    fn ask(&mut self, cluster: usize) -> Result<String> {
        self.request.clear();
        write!(self.request, "GET / HTTP/1.1\r\nhost: t\r\nx-cluster: cluster{cluster}\r\n\r\n")?;
        self.stream.write_all(self.request.as_bytes())?;
        let mut length = 0;
        loop {
            let count = self.stream.read(self.buffer.get_mut(length..).context("a long answer")?)?;
            ensure!(count > 0, "the proxy closed the connection");
            length += count;
            let answer = String::from_utf8_lossy(&self.buffer[..length]);
            let Some((head, body)) = answer.split_once("\r\n\r\n") else { continue };
            let expected = head
                .lines()
                .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
            if body.len() >= expected.unwrap_or(0_usize) {
                return Ok(body.to_owned());
            }
        }
    }
}
