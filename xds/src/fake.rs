//! A management server for demonstrations and tests: real HTTP/2 and gRPC on a loopback port, and faults on demand.
//!
//! It serves the resources it was given, by both protocols, on the aggregated and all single services, and records every
//! request. It answers as `go-control-plane` does: the whole state of a type when its version differs from what the stream
//! was sent, changes by resource version on delta streams, silence for types it has nothing for; requests with a nonce that
//! is not the latest are ignored.
//!
//! It holds its state in memory without limits and trusts its clients: not for production.

mod script;
mod session;
mod wire;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_core::future::BoxFuture;
use prost_types::Any;
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use xds_api::envoy::config::core::v3::Node;
use xds_api::google::rpc::Status;

pub use self::script::Fault;

use crate::client::grpc::{Dial, Io};
use crate::client::service::Service;
use crate::protocol::Request;
use crate::resource::{TypeUrl, name_of};

/// A resource as it is served.
#[derive(Clone, Debug, PartialEq)]
pub struct Served {
    /// Its name.
    pub name: String,
    /// What delta clients compare; made from the bytes unless set.
    pub version: String,
    /// Type and bytes.
    pub any: Any,
    /// Time to live, told to clients.
    pub ttl: Option<Duration>,
}

impl Served {
    /// A resource under the name in its bytes (empty if there is none to be read).
    pub fn new(any: Any) -> Self {
        Self::named(&name_of(&TypeUrl::new(&any.type_url), &any).unwrap_or_default(), any)
    }

    /// A resource under a name of its own.
    pub fn named(name: &str, any: Any) -> Self {
        use std::hash::{DefaultHasher, Hasher};
        let mut hasher = DefaultHasher::new();
        hasher.write(&any.value);
        Self { name: name.to_owned(), version: format!("{:016x}", hasher.finish()), any, ttl: None }
    }
}

/// A request that was received.
#[derive(Clone, Debug, PartialEq)]
pub struct Recorded {
    /// Which stream, counted from 1 in the order in which they were opened.
    pub stream: usize,
    /// The service that was called.
    pub service: Service,
    /// The request itself.
    pub request: Request,
}

impl Recorded {
    /// The type it is about.
    pub fn type_url(&self) -> TypeUrl {
        match &self.request {
            Request::StateOfTheWorld(request) => TypeUrl::new(&request.type_url),
            Request::Delta(request) => TypeUrl::new(&request.type_url),
        }
    }

    /// The node, if it was told.
    pub fn node(&self) -> Option<&Node> {
        match &self.request {
            Request::StateOfTheWorld(request) => request.node.as_ref(),
            Request::Delta(request) => request.node.as_ref(),
        }
    }

    /// The names asked for: all of them, or those a delta request subscribes to.
    pub fn names(&self) -> &[String] {
        match &self.request {
            Request::StateOfTheWorld(request) => &request.resource_names,
            Request::Delta(request) => &request.resource_names_subscribe,
        }
    }

    /// The names a delta request unsubscribes from.
    pub fn unsubscribed(&self) -> &[String] {
        match &self.request {
            Request::StateOfTheWorld(_) => &[],
            Request::Delta(request) => &request.resource_names_unsubscribe,
        }
    }

    /// `version_info`; empty for delta requests.
    pub fn version(&self) -> &str {
        match &self.request {
            Request::StateOfTheWorld(request) => &request.version_info,
            Request::Delta(_) => "",
        }
    }

    /// `response_nonce`.
    pub fn nonce(&self) -> &str {
        match &self.request {
            Request::StateOfTheWorld(request) => &request.response_nonce,
            Request::Delta(request) => &request.response_nonce,
        }
    }

    /// Why a response was rejected.
    pub fn error(&self) -> Option<&Status> {
        match &self.request {
            Request::StateOfTheWorld(request) => request.error_detail.as_ref(),
            Request::Delta(request) => request.error_detail.as_ref(),
        }
    }

    /// Whether it acknowledges a response.
    pub fn is_ack(&self) -> bool {
        !self.nonce().is_empty() && self.error().is_none()
    }
}

/// All resources of one type.
#[derive(Clone, Debug, Default)]
struct Kind {
    version: String,
    resources: BTreeMap<String, Served>,
}

/// What is served, and how.
#[derive(Debug, Default)]
struct State {
    kinds: BTreeMap<TypeUrl, Kind>,
    /// What single nodes are served in place of all that, by their ids.
    nodes: BTreeMap<String, BTreeMap<TypeUrl, Kind>>,
    /// How often all of a type was to be sent again.
    rounds: BTreeMap<TypeUrl, u64>,
    /// Types without responses for now.
    held: BTreeSet<TypeUrl>,
    /// Types whose requests have to name every resource before they are answered.
    complete: BTreeSet<TypeUrl>,
    script: VecDeque<Fault>,
    close_after_response: bool,
    refuse: bool,
    identifier: String,
    recorded: Vec<Recorded>,
    streams: usize,
    nonces: u64,
}

impl State {
    fn kinds_of(&self, node: &str) -> &BTreeMap<TypeUrl, Kind> {
        self.nodes.get(node).unwrap_or(&self.kinds)
    }
}

struct Shared {
    state: Mutex<State>,
    /// Moves when the state has changed.
    changed: watch::Sender<u64>,
    /// Moves when all streams have to end.
    closing: watch::Sender<u64>,
    /// Moves when all connections have to end.
    hanging_up: watch::Sender<u64>,
    /// Moves when a request was recorded or a stream was opened.
    heard: watch::Sender<u64>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A running management server; it ends when dropped. See the module's documentation.
pub struct ManagementServer {
    shared: Arc<Shared>,
    address: SocketAddr,
    accepting: AbortHandle,
}

impl Drop for ManagementServer {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl ManagementServer {
    /// Listens on a port of the kernel's choice on 127.0.0.1. Needs a tokio runtime, which has to keep running.
    ///
    /// # Errors
    /// The socket could not be opened.
    pub async fn start() -> io::Result<Self> {
        Self::listen((Ipv4Addr::LOCALHOST, 0).into()).await
    }

    /// Listens on an address.
    ///
    /// # Errors
    /// The socket could not be opened.
    pub async fn listen(address: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        Ok(Self::serve(wire::Listening::Tcp(listener), address))
    }

    /// Listens on a unix domain socket. ([`ManagementServer::address`] leads nowhere then.)
    ///
    /// # Errors
    /// The socket could not be opened.
    pub fn listen_unix(path: &Path) -> io::Result<Self> {
        let listener = UnixListener::bind(path)?;
        Ok(Self::serve(wire::Listening::Unix(listener), (Ipv4Addr::LOCALHOST, 0).into()))
    }

    fn serve(listener: wire::Listening, address: SocketAddr) -> Self {
        let shared = Arc::new(Shared {
            state: Mutex::new(State { identifier: "fake".to_owned(), ..State::default() }),
            changed: watch::Sender::new(0),
            closing: watch::Sender::new(0),
            hanging_up: watch::Sender::new(0),
            heard: watch::Sender::new(0),
        });
        let accepting = tokio::spawn(wire::accept(listener, shared.clone())).abort_handle();
        Self { shared, address, accepting }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves these resources of a type from now on, and pushes what has changed to every stream.
    pub fn set(&self, type_url: &TypeUrl, version: &str, resources: impl IntoIterator<Item = Served>) {
        self.set_all([(type_url.clone(), version, resources.into_iter().collect())]);
    }

    /// [`ManagementServer::set`] for several types at once: streams see all or nothing of it.
    pub fn set_all<'a>(&self, kinds: impl IntoIterator<Item = (TypeUrl, &'a str, Vec<Served>)>) {
        self.change(|state| put(&mut state.kinds, kinds));
    }

    /// [`ManagementServer::set_all`] for the node of this id alone, which is served nothing else from then on.
    pub fn set_all_of<'a>(
        &self,
        node: &str,
        kinds: impl IntoIterator<Item = (TypeUrl, &'a str, Vec<Served>)>,
    ) {
        self.change(|state| put(state.nodes.entry(node.to_owned()).or_default(), kinds));
    }

    /// Sends all resources of this type once more to every state-of-the-world stream, though nothing has changed.
    pub fn send_again(&self, type_url: &TypeUrl) {
        self.change(|state| *state.rounds.entry(type_url.clone()).or_default() += 1);
    }

    /// Sends nothing of this type until [`ManagementServer::release`].
    pub fn hold(&self, type_url: &TypeUrl) {
        self.change(|state| state.held.extend([type_url.clone()]));
    }

    /// Sends what was held.
    pub fn release(&self, type_url: &TypeUrl) {
        self.change(|state| state.held.retain(|held| held != type_url));
    }

    /// Answers requests of this type only when they name every resource there is, as `go-control-plane` does for endpoints
    /// and routes on aggregated streams.
    pub fn wait_for_all_names(&self, type_url: &TypeUrl) {
        self.change(|state| state.complete.extend([type_url.clone()]));
    }

    /// Lets the next response (or stream) go wrong. Faults wait in line, one per response.
    pub fn script(&self, fault: Fault) {
        self.change(|state| state.script.push_back(fault));
    }

    /// Ends every stream after each of its responses, or no longer.
    pub fn close_after_response(&self, close: bool) {
        self.change(|state| state.close_after_response = close);
    }

    /// Closes connections as soon as they are accepted, or no longer.
    pub fn refuse_connections(&self, refuse: bool) {
        self.change(|state| state.refuse = refuse);
    }

    /// Ends all present streams with UNAVAILABLE.
    pub fn close_streams(&self) {
        self.shared.closing.send_modify(|count| *count += 1);
    }

    /// Ends all present connections, and the streams on them without a word.
    pub fn close_connections(&self) {
        self.shared.hanging_up.send_modify(|count| *count += 1);
    }

    /// The nonce that the next response will have.
    pub fn next_nonce(&self) -> String {
        (self.shared.state().nonces + 1).to_string()
    }

    /// All requests so far.
    pub fn recorded(&self) -> Vec<Recorded> {
        self.shared.state().recorded.clone()
    }

    /// How many streams were opened so far.
    pub fn streams(&self) -> usize {
        self.shared.state().streams
    }

    /// Waits until this many streams were opened in all.
    pub async fn streams_opened(&self, count: usize) {
        let mut heard = self.shared.heard.subscribe();
        while self.streams() < count {
            if heard.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Waits until the requests so far satisfy `look`, and gives what it found. Waits for ever if they never do.
    pub async fn wait<T>(&self, mut look: impl FnMut(&[Recorded]) -> Option<T>) -> T {
        let mut heard = self.shared.heard.subscribe();
        loop {
            if let Some(found) = look(&self.shared.state().recorded) {
                return found;
            }
            if heard.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Waits until the version of this type was acknowledged, and gives the request that did.
    pub async fn acknowledged(&self, type_url: &TypeUrl, version: &str) -> Recorded {
        let is_it = |recorded: &&Recorded| {
            recorded.type_url() == *type_url && recorded.is_ack() && recorded.version() == version
        };
        self.wait(|all| all.iter().find(is_it).cloned()).await
    }

    /// Waits until a response of this type was rejected, and gives the request that did.
    pub async fn rejected(&self, type_url: &TypeUrl) -> Recorded {
        let is_it = |recorded: &&Recorded| recorded.type_url() == *type_url && recorded.error().is_some();
        self.wait(|all| all.iter().find(is_it).cloned()).await
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.shared.state());
        self.shared.changed.send_modify(|count| *count += 1);
    }
}

fn put<'a>(
    into: &mut BTreeMap<TypeUrl, Kind>,
    kinds: impl IntoIterator<Item = (TypeUrl, &'a str, Vec<Served>)>,
) {
    for (type_url, version, resources) in kinds {
        let resources = resources.into_iter().map(|served| (served.name.clone(), served)).collect();
        into.insert(type_url, Kind { version: version.to_owned(), resources });
    }
}

/// Connects clients to the server, whatever cluster they name.
impl Dial for ManagementServer {
    fn dial(&self, _cluster: &str, _version: http::Version) -> BoxFuture<'static, io::Result<Box<dyn Io>>> {
        let address = self.address;
        Box::pin(async move {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            Ok(Box::new(stream) as Box<dyn Io>)
        })
    }
}

#[cfg(test)]
mod tests;
