//! Random schedules of requests, connects, failures, ends, SETTINGS, GOAWAY, time and drains, against what has to hold in all of
//! them. `SEED=n make sim` repeats one. The decisions, the guards, the breakers and the statistics are those of the proxy;
//! connections and streams are not. What is checked, between any two steps:
//! * gauges, breakers and counts of the pool are what the model says exists, and never above their limits;
//! * a connection is lent to one request at a time, or to as many streams as it may carry, and not after its last;
//! * nobody waits while there is something to be had; who waited longest is served first;
//! * every request ends once, is refused only by a full line, and in the end nothing is left.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proxy_core::stream_error::UpstreamReset;
use tokio::sync::{Notify, oneshot};
use tokio::task::{JoinHandle, yield_now};
use xds_api::envoy::config::cluster::v3 as proto;
use xds_api::envoy::config::cluster::v3::cluster::DiscoveryType;
use xds_api::envoy::config::core::v3::Http2ProtocolOptions;

use super::connect::ConnectionGuard;
use super::exclusive::{Chosen, Closing, Rests, Served, Worn};
use super::multiplexed::{Attempt, Carrier, Carries};
use super::{HostPool, Pending, Wire};
use crate::upstream::circuit_breaker::{BreakerPriority, Resource};
use crate::upstream::cluster::Cluster;
use crate::upstream::tests::{build, cluster, lb_endpoint};

const PRIORITY: BreakerPriority = BreakerPriority::Default;
/// Longer than any wait for SETTINGS, shorter than `idle_timeout`.
const WHILE: Duration = Duration::from_secs(60);

enum Fake {}

impl Wire for Fake {
    type Exclusive = Box<Connection>;
    type Multiplexed = Rc<Streams>;
}

/// A connection for one request at a time.
struct Connection {
    id: usize,
    alive: Rc<Cell<bool>>,
    served: u32,
    idle_since: Instant,
    _live: Live,
}

impl Rests for Box<Connection> {
    fn worn(&self, idle_timeout: Option<Duration>, now: Instant) -> Option<Worn> {
        let is_idle = idle_timeout.is_some_and(|limit| now - self.idle_since >= limit);
        if !self.alive.get() { Some(Worn::Gone) } else { is_idle.then_some(Worn::Idle) }
    }

    fn count(&self, _: Closing) {}
}

/// A connection for many.
struct Streams {
    id: usize,
    max: Cell<Option<usize>>,
    goaway: Cell<bool>,
    /// Ends the connection from the other side.
    cut: Notify,
}

impl Carries for Rc<Streams> {
    fn takes_streams(&self) -> bool {
        !self.goaway.get()
    }

    fn max_streams(&self) -> Option<usize> {
        self.max.get()
    }
}

/// A connection that exists, as the model counts.
struct Live {
    world: Rc<World>,
    guard: Option<ConnectionGuard<Fake>>,
}

impl Live {
    fn new(world: &Rc<World>, guard: ConnectionGuard<Fake>) -> Self {
        world.connections.set(world.connections.get() + 1);
        Self { world: world.clone(), guard: Some(guard) }
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.world.connections.set(self.world.connections.get() - 1);
        self.guard = None;
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Not yet begun.
    Asked,
    Waiting,
    /// A connection is being made for it (HTTP/1).
    Connecting,
    /// On this connection.
    On(usize),
    Done,
    Refused,
    Failed,
    Left,
}

impl State {
    fn is_pending(self) -> bool {
        matches!(self, Self::Waiting | Self::Connecting)
    }

    fn is_end(self) -> bool {
        matches!(self, Self::Done | Self::Refused | Self::Failed | Self::Left)
    }
}

/// How an exchange ends; whether the connection can carry another.
type Finish = oneshot::Sender<bool>;

struct World {
    pool: Rc<HostPool<Fake>>,
    cluster: Arc<Cluster>,
    now: Cell<Instant>,
    connections: Cell<usize>,
    numbers: Cell<usize>,
    states: RefCell<Vec<State>>,
    finishes: RefCell<BTreeMap<usize, Finish>>,
    /// Connections that are being made.
    connects: RefCell<Vec<oneshot::Sender<bool>>>,
    /// HTTP/1 connections that the other side may close.
    alive: RefCell<Vec<Rc<Cell<bool>>>>,
    carriers: RefCell<Vec<Rc<Carrier<Rc<Streams>>>>>,
}

/// Takes note of a request that is given up.
struct Mark(Rc<World>, usize);

impl Drop for Mark {
    fn drop(&mut self) {
        self.0.finishes.borrow_mut().remove(&self.1);
        let state = &mut self.0.states.borrow_mut()[self.1];
        if !state.is_end() {
            *state = State::Left;
        }
    }
}

impl World {
    fn new(random: &mut fastrand::Rng) -> Rc<Self> {
        #[allow(deprecated, reason = "the older fields say the same in fewer words")]
        let config = proto::Cluster {
            max_requests_per_connection: random.bool().then(|| random.u32(1..4)),
            preconnect_policy: random.bool().then(|| proto::cluster::PreconnectPolicy {
                per_upstream_preconnect_ratio: Some(1.0 + 2.0 * random.f64()),
                ..Default::default()
            }),
            http2_protocol_options: Some(Http2ProtocolOptions {
                max_concurrent_streams: Some(random.u32(1..5)),
                ..Default::default()
            }),
            circuit_breakers: Some(proto::CircuitBreakers {
                thresholds: vec![proto::circuit_breakers::Thresholds {
                    max_connections: Some(random.u32(0..4)),
                    max_pending_requests: Some(random.u32(1..6)),
                    ..Default::default()
                }],
                ..Default::default()
            }),
            ..cluster(DiscoveryType::Static, vec![lb_endpoint("127.0.0.1", 80)])
        };
        let cluster = build(&config).unwrap();
        let host = cluster.hosts().hosts().next().unwrap().clone();
        Rc::new(Self {
            pool: Rc::new(HostPool::new(host, cluster.clone(), None)),
            cluster,
            now: Cell::new(Instant::now()),
            connections: Cell::default(),
            numbers: Cell::default(),
            states: RefCell::default(),
            finishes: RefCell::default(),
            connects: RefCell::default(),
            alive: RefCell::default(),
            carriers: RefCell::default(),
        })
    }

    fn number(&self) -> usize {
        self.numbers.set(self.numbers.get() + 1);
        self.numbers.get()
    }

    fn count(&self, which: impl Fn(State) -> bool) -> usize {
        self.states.borrow().iter().filter(|state| which(**state)).count()
    }

    fn set(&self, id: usize, state: State) {
        let before = std::mem::replace(&mut self.states.borrow_mut()[id], state);
        assert!(!before.is_end(), "{id} ended as {before:?}, then {state:?}");
    }

    fn used(&self, resource: Resource) -> usize {
        self.cluster.breakers.used(PRIORITY, resource) as usize
    }

    fn max(&self, resource: Resource) -> usize {
        self.cluster.breakers.max(PRIORITY, resource) as usize
    }

    /// Waits in the line, unless that is full.
    fn wait(&self, id: usize) -> Option<Pending> {
        let pending = Pending::new(&self.cluster, &self.pool.host, PRIORITY).ok();
        let full = self.count(State::is_pending) >= self.max(Resource::Pending);
        assert_eq!(pending.is_none(), full, "{id}");
        self.set(id, if full { State::Refused } else { State::Waiting });
        pending
    }

    fn verdict(&self) -> oneshot::Receiver<bool> {
        let (sender, receiver) = oneshot::channel();
        self.connects.borrow_mut().push(sender);
        receiver
    }

    /// The exchange on connection `on`; whether that can carry another.
    async fn exchange(&self, id: usize, on: usize) -> bool {
        self.set(id, State::On(on));
        let (sender, receiver) = oneshot::channel();
        self.finishes.borrow_mut().insert(id, sender);
        let good = receiver.await.unwrap();
        self.set(id, State::Done);
        good
    }

    async fn http1(self: Rc<Self>, mark: Mark, fresh: bool) {
        let id = mark.1;
        let now = || self.now.get();
        let idle = if fresh { None } else { self.pool.exclusive.take(self.cluster.http.idle_timeout, now) };
        let mut connection = match idle {
            Some(connection) => {
                self.follow();
                connection
            }
            None => {
                let Some(_pending) = self.wait(id) else { return };
                let chosen = self.pool.choose(PRIORITY, now).await;
                self.follow();
                match chosen {
                    Chosen::Free(connection) => connection,
                    Chosen::New(guard) => {
                        let live = Live::new(&self, guard);
                        self.set(id, State::Connecting);
                        let Some(connection) = self.connected(live).await else {
                            return self.set(id, State::Failed);
                        };
                        connection
                    }
                }
            }
        };
        let lent = self.count(|state| state == State::On(connection.id));
        assert!(lent == 0 && connection.alive.get(), "{} is lent", connection.id);
        let limit = self.cluster.http.max_requests_per_connection;
        connection.served += 1;
        assert!(limit.is_none_or(|limit| connection.served <= limit), "{} requests", connection.served);
        let good = self.exchange(id, connection.id).await && connection.alive.get();
        let served = Served { requests: connection.served, expires: None };
        if good && self.pool.closing(&served, now).is_none() {
            connection.idle_since = now();
            self.pool.exclusive.put(connection);
        }
    }

    /// The connection, if it can be made.
    async fn connected(&self, mut live: Live) -> Option<Box<Connection>> {
        if !self.verdict().await.unwrap() {
            return None;
        }
        live.guard.as_mut().unwrap().establish();
        let alive = Rc::new(Cell::new(true));
        self.alive.borrow_mut().push(alive.clone());
        let (id, idle_since) = (self.number(), self.now.get());
        Some(Box::new(Connection { id, alive, served: 0, idle_since, _live: live }))
    }

    /// Makes connections for the requests that will follow one, if the cluster wants that.
    fn follow(self: &Rc<Self>) {
        self.pool.follow_exclusive(PRIORITY, |guard, ahead| {
            let (world, live) = (self.clone(), Live::new(self, guard));
            tokio::task::spawn_local(async move {
                if let Some(connection) = world.connected(live).await {
                    ahead.made(connection);
                }
            });
        });
    }

    async fn http2(self: Rc<Self>, mark: Mark) {
        let id = mark.1;
        let make = |guard, attempt: Attempt<Fake>| {
            let connecting = self.clone().connect(Live::new(&self, guard));
            tokio::task::spawn_local(attempt.run(async move { connecting.await.map(Some) }));
        };
        let carrier = match self.pool.with_room() {
            Some(carrier) => carrier,
            None => {
                let Some(_pending) = self.wait(id) else { return };
                match self.pool.await_room(PRIORITY, make).await {
                    Ok(Some(carrier)) => carrier,
                    Ok(None) | Err(_) => return self.set(id, State::Failed),
                }
            }
        };
        let streams = &carrier.transport;
        let open = self.count(|state| state == State::On(streams.id));
        let limit = (self.cluster.http.http2.max_concurrent_streams as usize)
            .min(streams.max.get().unwrap_or(usize::MAX));
        assert!(open < limit.max(1) && !streams.goaway.get(), "{open} streams of {limit}");
        self.pool.open_stream(&carrier);
        self.pool.follow_multiplexed(PRIORITY, make);
        let requests = self.cluster.http.max_requests_per_connection;
        assert!(requests.is_none_or(|limit| carrier.total() <= limit), "{} requests", carrier.total());
        let close = Close(&self, &carrier);
        self.exchange(id, close.1.transport.id).await;
    }

    async fn connect(
        self: Rc<Self>,
        mut live: Live,
    ) -> Result<Rc<Carrier<Rc<Streams>>>, (UpstreamReset, String)> {
        if !self.verdict().await.unwrap() {
            return Err((UpstreamReset::ConnectFailure, String::new()));
        }
        live.guard.as_mut().unwrap().establish();
        let streams =
            Streams { id: self.number(), max: Cell::new(None), goaway: Cell::new(false), cut: Notify::new() };
        let carrier = Rc::new(Carrier::new(Rc::new(streams), None, self.now.get()));
        self.pool.multiplexed.add(&carrier);
        self.carriers.borrow_mut().push(carrier.clone());
        let driven = carrier.clone();
        tokio::task::spawn_local(async move {
            tokio::select! {
                () = driven.close.notified() => assert_eq!(driven.streams(), 0, "closed under its streams"),
                () = driven.transport.cut.notified() => driven.transport.goaway.set(true),
            }
            self.pool.multiplexed.ended(&driven);
            self.carriers.borrow_mut().retain(|other| !Rc::ptr_eq(other, &driven));
            drop(live);
        });
        Ok(carrier)
    }

    /// What has to hold when everybody who was woken has looked.
    fn check(&self) {
        let stats = self.cluster.stats.traffic.here();
        let connections = self.connections.get();
        assert_eq!(stats.upstream_cx_active.share(), connections as i64, "upstream_cx_active");
        assert_eq!(
            (self.pool.connections.sum(), self.used(Resource::Connections)),
            (connections, connections)
        );
        let limit = self.max(Resource::Connections).max(1);
        assert!(connections <= limit, "{connections} connections");
        let pending = self.count(State::is_pending);
        assert_eq!(stats.upstream_rq_pending_active.share(), pending as i64, "upstream_rq_pending_active");
        assert_eq!(self.used(Resource::Pending), pending);
        assert!(pending <= self.max(Resource::Pending), "{pending} requests wait");
        for carrier in &*self.carriers.borrow() {
            assert_eq!(carrier.streams(), self.count(|state| state == State::On(carrier.transport.id)));
        }
        let waiting = self.count(|state| state == State::Waiting);
        let in_line = self.pool.exclusive.in_line();
        assert!(in_line <= waiting, "{in_line} in the line, {waiting} wait");
        if waiting > 0 {
            let connecting = !self.connects.borrow().is_empty() || self.is_settling();
            assert!(connecting || connections >= limit, "a request waits, a connection might be made");
            assert!(self.pool.with_room().is_none(), "a request waits beside a connection with room");
            let idle = self.pool.exclusive.take(self.cluster.http.idle_timeout, || self.now.get());
            assert!(idle.is_none(), "a request waits beside an idle connection");
        }
    }

    /// Whether a connection waits for SETTINGS.
    fn is_settling(&self) -> bool {
        self.carriers.borrow().iter().any(|carrier| carrier.transport.max.get().is_none())
    }
}

/// Takes a stream off its connection when it ends or is given up.
struct Close<'w>(&'w World, &'w Rc<Carrier<Rc<Streams>>>);

impl Drop for Close<'_> {
    fn drop(&mut self) {
        self.0.pool.close_stream(self.1, || self.0.now.get());
    }
}

/// Lets everybody who was woken look.
async fn settle() {
    for _ in 0..64 {
        yield_now().await;
    }
}

fn any<T>(random: &mut fastrand::Rng, of: &mut Vec<T>) -> Option<T> {
    (!of.is_empty()).then(|| of.swap_remove(random.usize(..of.len())))
}

struct Run {
    world: Rc<World>,
    random: fastrand::Rng,
    is_http2: bool,
    tasks: Vec<JoinHandle<()>>,
}

impl Run {
    fn ask(&mut self) {
        let id = self.world.states.borrow().len();
        self.world.states.borrow_mut().push(State::Asked);
        let (world, mark) = (self.world.clone(), Mark(self.world.clone(), id));
        let fresh = self.random.u8(..8) == 0;
        self.tasks.push(match self.is_http2 {
            true => tokio::task::spawn_local(world.http2(mark)),
            false => tokio::task::spawn_local(world.http1(mark, fresh)),
        });
    }

    fn finish(&mut self, good: bool) {
        let ids: Vec<usize> = self.world.finishes.borrow().keys().copied().collect();
        if let Some(id) = self.random.choice(ids) {
            let finish = self.world.finishes.borrow_mut().remove(&id);
            let _ = finish.unwrap().send(good);
        }
    }

    fn verdict(&mut self, good: bool) {
        if let Some(connect) = any(&mut self.random, &mut self.world.connects.borrow_mut()) {
            let _ = connect.send(good);
        }
    }

    async fn pass(&self, time: Duration) {
        self.world.now.set(self.world.now.get() + time);
        tokio::time::advance(time).await;
        self.world.pool.sweep(self.world.now.get());
    }

    /// The other side does something to a connection.
    fn peer(&mut self) {
        any(&mut self.random, &mut self.world.alive.borrow_mut()).inspect(|alive| alive.set(false));
        let carriers = self.world.carriers.borrow().clone();
        let Some(carrier) = self.random.choice(carriers) else { return };
        match self.random.u8(..4) {
            0 => carrier.transport.goaway.set(true),
            1 => carrier.transport.cut.notify_one(),
            _ => {
                // Fewer than are open, none at all, or more.
                carrier.transport.max.set(Some(self.random.usize(..6)));
                self.world.pool.look_for_settings(&carrier);
            }
        }
    }

    async fn step(&mut self) {
        match self.random.u8(..32) {
            0..10 => self.ask(),
            10..16 => self.finish(true),
            16 => self.finish(false),
            17..22 => self.verdict(true),
            22..24 => self.verdict(false),
            24..27 => self.peer(),
            27..29 => any(&mut self.random, &mut self.tasks).into_iter().for_each(|task| task.abort()),
            29 => self.pass(WHILE).await,
            30 if self.random.bool() => self.pass(WHILE * 120).await,
            30 => self.world.pool.sweep(self.world.now.get()),
            _ if self.random.u8(..8) == 0 => self.world.pool.drain(),
            _ => {}
        }
    }

    async fn run(mut self) {
        for _ in 0..self.random.usize(1..150) {
            let waiting = self.waiting();
            let before = self.world.states.borrow().clone();
            self.step().await;
            if self.random.u8(..4) == 0 {
                // Nobody looks before the next step.
                continue;
            }
            settle().await;
            // A room made for one is not seen by a host's leave before somebody looks.
            self.world.pool.sweep(self.world.now.get());
            settle().await;
            self.world.check();
            self.check_order(&waiting, &before);
        }
        self.end().await;
    }

    fn waiting(&self) -> Vec<usize> {
        let states = self.world.states.borrow();
        (0..states.len()).filter(|id| states[*id] == State::Waiting).collect()
    }

    /// HTTP/1: who waited longest is served first. A step before which somebody was woken and did not look is not judged.
    fn check_order(&self, waiting: &[usize], before: &[State]) {
        if self.is_http2 || before.contains(&State::Asked) {
            return;
        }
        let states = self.world.states.borrow();
        let served = |id: &usize| matches!(states[*id], State::On(_) | State::Connecting);
        let still: Vec<usize> = waiting.iter().copied().filter(|id| states[*id] == State::Waiting).collect();
        let late =
            waiting.iter().filter(|id| served(id)).find(|id| still.first().is_some_and(|first| first < *id));
        assert!(late.is_none(), "{late:?} was served before {still:?}");
    }

    /// Everything that is under way comes to an end, and nothing is left.
    async fn end(mut self) {
        for turn in 0..1000 {
            if self.world.count(|state| !state.is_end()) == 0 {
                break;
            }
            self.verdict(true);
            self.finish(true);
            settle().await;
            if turn == 500 {
                self.pass(WHILE).await;
            }
        }
        // SETTINGS that never came, for a connection that nobody waits for.
        while !self.world.connects.borrow().is_empty() {
            self.verdict(true);
            settle().await;
        }
        self.pass(WHILE).await;
        settle().await;
        self.world.check();
        let states = self.world.states.borrow().clone();
        assert!(states.iter().all(|state| state.is_end()), "{states:?}");
        self.world.pool.drain();
        settle().await;
        self.world.check();
        assert_eq!(self.world.connections.get(), 0, "connections are left");
        let stats = self.world.cluster.stats.traffic.here();
        assert_eq!(stats.upstream_cx_total.value(), stats.upstream_cx_destroy.value());
    }
}

fn run(seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_time().start_paused(true).build().unwrap();
    let world = World::new(&mut random);
    let run = Run { world, is_http2: random.bool(), random, tasks: Vec::new() };
    tokio::task::LocalSet::new().block_on(&runtime, run.run());
}

#[test]
fn simulation_keeps_to_the_model() {
    simulate::each_seed(400, run);
}
