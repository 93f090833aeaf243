//! One cluster of many gets a new endpoint over a delta ADS stream, or a cluster of many hosts gets all others: the time from the arrival of the update at the proxy
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
use socket2::{Domain, Socket, Type};
use xds::TypeUrl;
use xds::fake::{ManagementServer, Served};
use xds_api::envoy::config::cluster::v3::Cluster;
use xds_api::envoy::config::endpoint::v3::ClusterLoadAssignment;
use xds_api::read::{Options as ReadOptions, Source, read};

use crate::options::{Measure, Options, Part};
use crate::peers::{Peer, Process, fill, free_ports};
use crate::proc::Cpu;
use crate::report::Report;
use crate::say;

/// How long the first configuration, or an update, may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the management server tells of: so many clusters of so many hosts.
#[derive(Clone, Copy)]
struct Fleet {
    clusters: usize,
    hosts: usize,
    policy: &'static str,
}

impl Fleet {
    fn of(measure: Measure, options: &Options) -> Self {
        match measure {
            Measure::Hosts => Self { clusters: 1, hosts: 10_000, policy: "ROUND_ROBIN" },
            Measure::Maglev => Self { clusters: 1, hosts: 10_000, policy: "MAGLEV" },
            _ => Self { clusters: options.many_clusters(), hosts: 1, policy: "ROUND_ROBIN" },
        }
    }
}

/// Adds one sample per update and peer.
pub(crate) fn measure(options: &Options, report: &mut Report) -> Result<()> {
    let wanted = [Measure::Endpoints, Measure::Hosts, Measure::Maglev];
    for measure in wanted.into_iter().filter(|measure| options.wants(*measure)) {
        for peer in [Peer::Outrigger, Peer::Envoy].into_iter().filter(|peer| options.peers.contains(peer)) {
            let samples = run(peer, options, Fleet::of(measure, options));
            report.add_all(measure, peer, samples);
        }
        say(&format!("{} done", measure.name()));
    }
    Ok(())
}

fn run(peer: Peer, options: &Options, fleet: Fleet) -> Result<Vec<(Part, f64)>> {
    let count = fleet.clusters;
    let words = [("old", answering("old", Duration::ZERO)?), ("new", answering("new", Duration::ZERO)?)];
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let server = runtime.block_on(ManagementServer::start())?;
    let clusters: Result<Vec<Served>> = (0..count).map(|at| cluster(at, fleet)).collect();
    let mut assignments: Vec<Served> =
        (0..count).map(|at| assignment(at, words[0].1, fleet)).collect::<Result<_>>()?;
    server.set_all([
        (TypeUrl::CLUSTER, "0", clusters?),
        (TypeUrl::CLUSTER_LOAD_ASSIGNMENT, "0", assignments.clone()),
    ]);
    let relay = Relay::start(server.address())?;
    let (process, port) = start(peer, options, relay.port)?;
    let mut client = Client::new(port)?;
    for at in 0..count {
        client.until(at, words[0].0)?;
    }
    let updates = if options.quick { 5 } else { 20 };
    let mut values = match count {
        1 => Vec::new(),
        _ => vec![(Part::Count, count as f64)],
    };
    let mut moved = vec![0; count];
    for update in 0..updates {
        let at = (update * count) / updates;
        // whatever was still on its way is through, and the upstream connections of the cluster stand
        client.until(at, words[moved[at] % 2].0)?;
        moved[at] += 1;
        let (word, port) = words[moved[at] % 2];
        assignments[at] = assignment(at, port, fleet)?;
        relay.forget();
        let all = assignments.clone();
        let version = (update + 1).to_string();
        let before = Cpu::of(process.pid())?;
        server.set(&TypeUrl::CLUSTER_LOAD_ASSIGNMENT, &version, all);
        let routed = client.until(at, word)?;
        let arrival = relay.seen().context("the update did not pass the relay")?;
        values.push((Part::Main, (routed - arrival).as_secs_f64() * 1e3));
        if fleet.hosts > 1 {
            let used = Cpu::of(process.pid())?.since(before);
            values.push((Part::Work, used.total().as_secs_f64() * 1e3));
        }
    }
    Ok(values)
}

fn served<M: Message + Name + Default>(yaml: &str) -> Result<Served> {
    let message = read::<M>(&Source::yaml("bench", yaml.as_bytes()), &ReadOptions::default())?.message;
    let type_url = format!("type.googleapis.com/{}", M::full_name());
    Ok(Served::new(Any { type_url, value: message.encode_to_vec() }))
}

fn cluster(at: usize, fleet: Fleet) -> Result<Served> {
    let policy = fleet.policy;
    served::<Cluster>(&format!(
        "{{name: cluster{at}, connect_timeout: 1s, type: EDS, lb_policy: {policy}, eds_cluster_config: {{eds_config: {{resource_api_version: V3, ads: {{}}}}}}}}"
    ))
}

/// All hosts are this machine, under addresses of their own.
fn assignment(at: usize, port: u16, fleet: Fleet) -> Result<Served> {
    let host = |host: usize| {
        let (high, low) = (host / 250, host % 250 + 1);
        format!(
            "{{endpoint: {{address: {{socket_address: {{address: 127.0.{high}.{low}, port_value: {port}}}}}}}}}"
        )
    };
    let hosts: Vec<String> = (0..fleet.hosts).map(host).collect();
    let hosts = hosts.join(", ");
    served::<ClusterLoadAssignment>(&format!(
        "{{cluster_name: cluster{at}, endpoints: [{{lb_endpoints: [{hosts}]}}]}}"
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

/// An upstream on all addresses of this machine alone that answers everything with one word, after `delay`; ends with the
/// process.
pub(crate) fn answering(word: &'static str, delay: Duration) -> Result<u16> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind_device(Some(b"lo"))?;
    socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)).into())?;
    socket.listen(1024)?;
    let listener = TcpListener::from(socket);
    let port = listener.local_addr()?.port();
    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{word}", word.len());
    let serve = move |mut stream: TcpStream| {
        let answer = answer.clone();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            // one request without a body at a time: it arrives in one piece
            while stream.read(&mut buffer).is_ok_and(|count| count > 0) {
                std::thread::sleep(delay);
                if stream.write_all(answer.as_bytes()).is_err() {
                    return;
                }
            }
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
