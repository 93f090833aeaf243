//! The listeners of one worker: sockets, accepting, balancing, draining.

use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use hashbrown::HashMap;
use proxy_core::address::Address;
use proxy_core::runtime::Runtime;
use proxy_core::stats::Cells;
use proxy_core::stats::groups::PerHandlerStats;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::config::{FilterChain, Listener};
use super::connection;
use crate::context::Context;
use crate::local::contain::vital;
use crate::local::drain::{DrainHandle, DrainStrategy};
use crate::local::overload::Overload;
use crate::net::connection::{Connection, Socket};

/// How long accepting rests when the process is out of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Identity of a listener over its versions.
pub type ListenerTag = u64;

/// What the workers share about one listener.
#[derive(Debug)]
pub struct SharedListener {
    /// Connections on each worker, for `exact_balance`.
    pub connections: Box<[AtomicUsize]>,
    runtime: Arc<Runtime>,
    limit_key: String,
}

impl SharedListener {
    /// For `workers` workers. The runtime key `envoy.resource_limits.listener.<name>.connection_limit` says how many
    /// connections the listener may have over all of them.
    pub fn new(workers: usize, name: &str, runtime: &Arc<Runtime>) -> Arc<Self> {
        Arc::new(Self {
            connections: (0..workers).map(|_| AtomicUsize::new(0)).collect(),
            runtime: runtime.clone(),
            limit_key: format!("envoy.resource_limits.listener.{name}.connection_limit"),
        })
    }

    fn is_full(&self) -> bool {
        let Some(limit) = self.runtime.number(&self.limit_key) else { return false };
        let total: usize = self.connections.iter().map(|count| count.load(Ordering::Relaxed)).sum();
        usize::try_from(limit).is_ok_and(|limit| total >= limit)
    }

    fn least_loaded(&self) -> usize {
        let counts = self.connections.iter().map(|count| count.load(Ordering::Relaxed));
        counts.enumerate().min_by_key(|(_, count)| *count).map_or(0, |(worker, _)| worker)
    }
}

/// Connections of the process, and how many it may have (`global_downstream_max_connections`).
#[derive(Debug)]
pub struct GlobalConnections {
    count: AtomicUsize,
    limit: ConnectionLimit,
}

/// The runtime key of the limit of the process's connections.
pub const GLOBAL_LIMIT: &str = "overload.global_downstream_max_connections";

/// Who limits the connections of the process.
#[derive(Clone, Debug)]
pub enum ConnectionLimit {
    /// The runtime key [`GLOBAL_LIMIT`], looked up for each connection; without a value there is no limit.
    Runtime(Arc<Runtime>),
    /// The monitor `envoy.resource_monitors.global_downstream_max_connections` of the overload manager, which the
    /// listeners that bypass it know nothing of. It goes before the runtime key.
    OverloadManager(usize),
}

impl GlobalConnections {
    /// At most as many connections as `limit` says.
    pub fn new(limit: ConnectionLimit) -> Arc<Self> {
        Arc::new(Self { count: AtomicUsize::new(0), limit })
    }

    fn is_reached(&self, count: usize) -> bool {
        match &self.limit {
            ConnectionLimit::OverloadManager(limit) => count >= *limit,
            ConnectionLimit::Runtime(runtime) => {
                let limit = runtime.number(GLOBAL_LIMIT).and_then(|limit| usize::try_from(limit).ok());
                limit.is_some_and(|limit| count >= limit)
            }
        }
    }

    fn counts(&self, listener: &Listener) -> bool {
        let bypassed =
            listener.bypass_overload_manager && matches!(self.limit, ConnectionLimit::OverloadManager(_));
        !listener.ignore_global_limit && !bypassed
    }

    /// How many there are now, those of listeners without a global limit excepted.
    pub fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }
}

/// A bound and listening socket.
pub enum Bound {
    /// TCP
    Tcp(std::net::TcpListener),
    /// A unix domain socket.
    Unix(std::os::unix::net::UnixListener),
}

/// Hands an accepted socket to another worker.
pub type HandOver = Box<dyn Fn(usize, ListenerTag, Accepted)>;

/// An accepted connection that can change threads.
pub struct Accepted {
    socket: AcceptedSocket,
    place: Place,
}

enum AcceptedSocket {
    Tcp(std::net::TcpStream),
    Unix(std::os::unix::net::UnixStream),
}

/// A connection's place under the limits: taken when it is accepted, given back when dropped.
pub(super) struct Place {
    shared: Arc<SharedListener>,
    worker: usize,
    global: Option<Arc<GlobalConnections>>,
}

impl Place {
    /// A place on `worker`; `None` if a limit does not allow it.
    fn take(listeners: &Listeners, listener: &ActiveListener, worker: usize) -> Option<Self> {
        let config = listener.config();
        let stats = config.stats.here();
        let global = listeners.global.counts(&config).then(|| listeners.global.clone());
        if let Some(global) = &global {
            let before = global.count.fetch_add(1, Ordering::Relaxed);
            if global.is_reached(before) {
                global.count.fetch_sub(1, Ordering::Relaxed);
                stats.downstream_global_cx_overflow.inc();
                return None;
            }
        }
        let place = Self { shared: listener.shared.clone(), worker, global };
        let is_full = place.shared.is_full();
        place.count(|count| count.fetch_add(1, Ordering::Relaxed));
        if is_full {
            stats.downstream_cx_overflow.inc();
            return None;
        }
        Some(place)
    }

    fn count(&self, change: impl Fn(&AtomicUsize) -> usize) {
        if let Some(count) = self.shared.connections.get(self.worker) {
            change(count);
        }
    }

    /// Moves to the listener that the connection is handed over to; its limit does not count, as in Envoy.
    pub(super) fn move_to(&mut self, listener: &ActiveListener) {
        self.count(|count| count.fetch_sub(1, Ordering::Relaxed));
        self.shared = listener.shared.clone();
        self.count(|count| count.fetch_add(1, Ordering::Relaxed));
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.count(|count| count.fetch_sub(1, Ordering::Relaxed));
        if let Some(global) = &self.global {
            global.count.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// The listeners of one worker.
pub struct Listeners {
    /// What all connections of the worker share.
    pub context: Rc<Context>,
    worker: usize,
    global: Arc<GlobalConnections>,
    hand_over: HandOver,
    active: RefCell<HashMap<ListenerTag, Rc<ActiveListener>>>,
    /// Listeners by bound address, for `use_original_dst`.
    bound: RefCell<HashMap<Address, Rc<ActiveListener>>>,
}

/// One listener on one worker.
pub struct ActiveListener {
    tag: ListenerTag,
    config: RefCell<Arc<Listener>>,
    /// The chains of `config`, each with its drain state.
    chains: RefCell<Vec<(Arc<FilterChain>, Rc<DrainHandle>)>>,
    shared: Arc<SharedListener>,
    tasks: RefCell<Vec<AbortHandle>>,
    /// `listener.<address>.worker_<n>`
    handler: Cells<PerHandlerStats>,
}

impl Listeners {
    /// No listeners yet.
    pub fn new(
        context: Rc<Context>,
        worker: usize,
        global: Arc<GlobalConnections>,
        hand_over: HandOver,
    ) -> Rc<Self> {
        Rc::new(Self {
            context,
            worker,
            global,
            hand_over,
            active: RefCell::default(),
            bound: RefCell::default(),
        })
    }

    /// What is done against overload on a listener, if anything may be.
    pub(super) fn overload_of(&self, listener: &Listener) -> Option<&Arc<Overload>> {
        self.context.overload.as_ref().filter(|_| !listener.bypass_overload_manager)
    }

    /// Starts to accept on `sockets`.
    pub fn add(
        self: &Rc<Self>,
        tag: ListenerTag,
        config: Arc<Listener>,
        shared: Arc<SharedListener>,
        sockets: Vec<Bound>,
    ) {
        let chains = config.chains.iter().map(|chain| (chain.clone(), DrainHandle::new())).collect();
        let handler = format!("{}.worker_{}", config.stat_prefix, self.worker);
        let listener = Rc::new(ActiveListener {
            tag,
            config: RefCell::new(config.clone()),
            chains: RefCell::new(chains),
            shared,
            tasks: RefCell::default(),
            handler: self.context.env.stats.scope(&handler).cells(),
        });
        for (address, _) in &config.addresses {
            self.bound.borrow_mut().insert(address.clone(), listener.clone());
        }
        self.active.borrow_mut().insert(tag, listener.clone());
        for socket in sockets {
            let task = tokio::task::spawn_local(vital(accept(self.clone(), listener.clone(), socket)));
            listener.tasks.borrow_mut().push(task.abort_handle());
        }
    }

    /// Gives a listener new chains: unchanged ones keep their connections, removed ones drain.
    pub fn update_chains(
        &self,
        tag: ListenerTag,
        config: &Arc<Listener>,
        drain_time: Duration,
        strategy: DrainStrategy,
    ) {
        let Some(listener) = self.active.borrow().get(&tag).cloned() else { return };
        let mut chains = listener.chains.borrow_mut();
        let mut old = std::mem::take(&mut *chains);
        for chain in &config.chains {
            let kept = old.iter().position(|(one, _)| one.fingerprint == chain.fingerprint);
            chains.push(match kept {
                Some(index) => old.swap_remove(index),
                None => (chain.clone(), DrainHandle::new()),
            });
        }
        *listener.config.borrow_mut() = config.clone();
        for (_, drain) in old {
            end_after(drain, drain_time, strategy, "filter_chain_is_being_removed");
        }
    }

    /// Stops to accept; what is connected stays.
    pub fn stop(&self, tag: ListenerTag) {
        let Some(listener) = self.active.borrow_mut().remove(&tag) else { return };
        self.bound.borrow_mut().retain(|_, one| !Rc::ptr_eq(one, &listener));
        for task in listener.tasks.borrow_mut().drain(..) {
            task.abort();
        }
    }

    /// Stops to accept, and asks what is connected to end within `drain_time`.
    pub fn remove(&self, tag: ListenerTag, drain_time: Duration, strategy: DrainStrategy) {
        let listener = self.active.borrow().get(&tag).cloned();
        self.stop(tag);
        if let Some(listener) = listener {
            for (_, drain) in listener.chains.borrow().iter() {
                // Envoy's word for what a removed listener leaves.
                let reason = "purging_socket_that_have_not_progressed_to_connections";
                end_after(drain.clone(), drain_time, strategy, reason);
            }
        }
    }

    /// Takes a connection that another worker accepted.
    pub fn take_over(self: &Rc<Self>, tag: ListenerTag, accepted: Accepted) {
        let known = self.active.borrow().get(&tag).cloned();
        // The listener may have been replaced while the connection was on its way.
        let Some(listener) = known.or_else(|| self.successor(&accepted.socket)) else { return };
        let socket = match accepted.socket {
            AcceptedSocket::Tcp(tcp) => tokio::net::TcpStream::from_std(tcp).map(Socket::Tcp),
            AcceptedSocket::Unix(unix) => tokio::net::UnixStream::from_std(unix).map(Socket::Unix),
        };
        if let Ok(socket) = socket {
            let connection = Box::new(Connection::new(socket));
            tokio::task::spawn_local(connection::serve(self.clone(), listener, connection, accepted.place));
        }
    }

    /// The listener that now has the address on which a connection was accepted.
    fn successor(&self, socket: &AcceptedSocket) -> Option<Rc<ActiveListener>> {
        match socket {
            AcceptedSocket::Tcp(tcp) => self.bound_to(&Address::Ip(tcp.local_addr().ok()?)),
            AcceptedSocket::Unix(_) => None,
        }
    }

    /// The listener bound to `address`, or to the wildcard address with its port.
    pub(super) fn bound_to(&self, address: &Address) -> Option<Rc<ActiveListener>> {
        let bound = self.bound.borrow();
        if let Some(exact) = bound.get(address) {
            return Some(exact.clone());
        }
        let wildcard = match address.socket_addr()? {
            std::net::SocketAddr::V4(v4) => (std::net::Ipv4Addr::UNSPECIFIED, v4.port()).into(),
            std::net::SocketAddr::V6(v6) => (std::net::Ipv6Addr::UNSPECIFIED, v6.port()).into(),
        };
        bound.get(&Address::Ip(wildcard)).cloned()
    }
}

/// Drains now, closes what is left after `time` for `reason`.
fn end_after(drain: Rc<DrainHandle>, time: Duration, strategy: DrainStrategy, reason: &'static str) {
    drain.start(time, strategy);
    tokio::task::spawn_local(async move {
        tokio::time::sleep(time).await;
        drain.close(reason);
    });
}

impl ActiveListener {
    /// The configuration now.
    pub(super) fn config(&self) -> Arc<Listener> {
        self.config.borrow().clone()
    }

    /// The chain at `index` of the configuration now, and its drain state.
    pub(super) fn chain(&self, index: usize) -> Option<(Arc<FilterChain>, Rc<DrainHandle>)> {
        self.chains.borrow().get(index).cloned()
    }

    /// Counts a connection that a filter chain serves.
    pub(super) fn count(self: &Rc<Self>) -> Counted {
        let config = self.config();
        let stats = config.stats.here();
        stats.downstream_cx_total.inc();
        stats.downstream_cx_active.inc();
        let handler = self.handler.here();
        handler.downstream_cx_total.inc();
        handler.downstream_cx_active.inc();
        Counted { listener: self.clone(), config, start: Instant::now() }
    }
}

/// Counts a connection of a listener until it is dropped.
pub(super) struct Counted {
    listener: Rc<ActiveListener>,
    config: Arc<Listener>,
    start: Instant,
}

impl Drop for Counted {
    fn drop(&mut self) {
        let stats = self.config.stats.here();
        stats.downstream_cx_active.dec();
        stats.downstream_cx_destroy.inc();
        stats
            .downstream_cx_length_ms
            .record(u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX));
        self.listener.handler.here().downstream_cx_active.dec();
    }
}

/// Accepts until the task is aborted.
async fn accept(listeners: Rc<Listeners>, listener: Rc<ActiveListener>, socket: Bound) {
    enum Source {
        Tcp(TcpListener),
        Unix(UnixListener),
    }
    let source = match socket {
        Bound::Tcp(tcp) => TcpListener::from_std(tcp).map(Source::Tcp),
        Bound::Unix(unix) => UnixListener::from_std(unix).map(Source::Unix),
    };
    let source = match source {
        Ok(source) => source,
        Err(error) => {
            tracing::error!(%error, "a listening socket cannot be used");
            return;
        }
    };
    let mut accepting = listeners.overload_of(&listener.config()).map(|overload| overload.accepting());
    loop {
        let next = async {
            match &source {
                Source::Tcp(tcp) => tcp.accept().await.map(|(stream, _)| {
                    let _ = stream.set_nodelay(true);
                    Socket::Tcp(stream)
                }),
                Source::Unix(unix) => unix.accept().await.map(|(stream, _)| Socket::Unix(stream)),
            }
        };
        let accepted = match &mut accepting {
            None => next.await,
            Some(accepting) => match while_accepting(accepting, next).await {
                Some(accepted) => accepted,
                None => continue,
            },
        };
        match accepted {
            Ok(socket) => dispatch(&listeners, &listener, socket),
            Err(error) if is_transient(&error) => {}
            Err(error) => {
                tracing::warn!(%error, listener = %listener.config().name, "accepting rests: out of resources");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// What `next` comes to, once connections are to be accepted; `None` if that changes meanwhile.
///
/// Cancel safety: that of `next`.
async fn while_accepting<T>(
    accepting: &mut watch::Receiver<bool>,
    next: impl Future<Output = T>,
) -> Option<T> {
    if accepting.wait_for(|accepting| *accepting).await.is_err() {
        // Nobody decides any more: the process ends.
        return std::future::pending().await;
    }
    tokio::select! {
        biased;
        _ = accepting.changed() => None,
        accepted = next => Some(accepted),
    }
}

/// Errors of one connection, not of the listening socket (`accept(2)`).
fn is_transient(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    )
}

/// Whether a connection that came is closed at once, because there is too much to do.
fn rejects(listeners: &Listeners, listener: &ActiveListener) -> bool {
    if listeners.context.overload.is_none() {
        return false;
    }
    let config = listener.config();
    let Some(overload) = listeners.overload_of(&config) else { return false };
    let rejects = overload.rejects_connection(|| listeners.context.random.borrow_mut().u64(..));
    if rejects {
        config.stats.here().downstream_cx_overload_reject.inc();
    }
    rejects
}

fn dispatch(listeners: &Rc<Listeners>, listener: &Rc<ActiveListener>, socket: Socket) {
    let balanced = listener.config().exact_balance;
    let worker = if balanced { listener.shared.least_loaded() } else { listeners.worker };
    let Some(place) = Place::take(listeners, listener, worker) else { return };
    if rejects(listeners, listener) {
        return;
    }
    if worker == listeners.worker {
        let connection = Box::new(Connection::new(socket));
        tokio::task::spawn_local(connection::serve(listeners.clone(), listener.clone(), connection, place));
        return;
    }
    let socket = match socket {
        Socket::Tcp(tcp) => tcp.into_std().map(AcceptedSocket::Tcp),
        Socket::Unix(unix) => unix.into_std().map(AcceptedSocket::Unix),
    };
    if let Ok(socket) = socket {
        (listeners.hand_over)(worker, listener.tag, Accepted { socket, place });
    }
}
