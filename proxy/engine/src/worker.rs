//! Workers: one thread and one runtime each, nothing shared on the way of a request.
//!
//! A worker owns its listeners' connections, its pools and its balancers. The main thread talks to it through a mailbox;
//! a snapshot is installed as a whole between two turns of the loop, so a request never sees half an update.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use proxy_core::config::BuildEnv;
use proxy_core::extension::http_filter::Engine;
use proxy_core::stats::groups::ThreadLocalClusterManagerStats;
use proxy_core::stats::{ShardId, Shared, set_shard};
use proxy_core::upstream::Host;
use tokio::runtime::{LocalOptions, LocalRuntime};
use tokio::sync::mpsc;

use crate::context::Context;
use crate::listener::accept::{Accepted, Bound, GlobalConnections, ListenerTag, Listeners, SharedListener};
use crate::listener::config::Listener;
use crate::local::contain::vital;
use crate::local::dispatcher::Dispatcher;
use crate::local::drain::{DrainStrategy, ProcessDrain};
use crate::local::overload::Overload;
use crate::local::watchdog::Watchdog;
use crate::local::{clock, overload, timers};
use crate::net::outbox;
use crate::router::Routes;
pub use crate::state::Snapshot;
use crate::upstream::pool::Clusters;

/// A message from the main thread, or from another worker.
enum Message {
    Snapshot(Arc<Snapshot>),
    HostsChanged(usize),
    HostsLeft(usize, Arc<[Arc<Host>]>),
    HostsFailed(usize, Arc<[Arc<Host>]>),
    AddListener { tag: ListenerTag, config: Arc<Listener>, shared: Arc<SharedListener>, sockets: Vec<Bound> },
    UpdateChains { tag: ListenerTag, config: Arc<Listener> },
    StopListener(ListenerTag),
    RemoveListener(ListenerTag),
    Accepted(ListenerTag, Accepted),
    Shutdown,
}

/// The workers of the process, as the main thread sees them.
pub struct Workers {
    mailboxes: Arc<[mpsc::UnboundedSender<Message>]>,
    threads: Vec<JoinHandle<()>>,
}

/// What every worker starts with.
pub struct WorkerSetup {
    /// The process.
    pub env: Arc<BuildEnv>,
    /// Drain state of the process.
    pub drain: Arc<ProcessDrain>,
    /// What is done against overload, if anything may be.
    pub overload: Option<Arc<Overload>>,
    /// Limit of connections of the process.
    pub connections: Arc<GlobalConnections>,
    /// Has the allocator give back what the calling thread freed, and all that has been free for long.
    pub tidy: fn(),
    /// Has the allocator give back all that is free.
    pub give_back: fn(),
    /// Notices workers that are stuck.
    pub watchdog: Arc<Watchdog>,
    /// Measure the loops of the workers.
    pub dispatcher_stats: bool,
}

impl WorkerSetup {
    fn dispatcher(&self, index: usize) -> Option<Dispatcher> {
        let scope = format!("listener_manager.worker_{index}");
        self.dispatcher_stats.then(|| Dispatcher::new(&self.env.stats, &scope))
    }
}

impl Workers {
    /// Starts `count` workers.
    ///
    /// # Errors
    /// A thread or its runtime could not be made.
    pub fn start(count: usize, setup: &Arc<WorkerSetup>) -> io::Result<Self> {
        let (senders, receivers): (Vec<_>, Vec<_>) = (0..count).map(|_| mpsc::unbounded_channel()).unzip();
        let mailboxes: Arc<[_]> = senders.into();
        let mut threads = Vec::with_capacity(count);
        for (index, receiver) in receivers.into_iter().enumerate() {
            let setup = setup.clone();
            let mailboxes = mailboxes.clone();
            let (started, starts) = std::sync::mpsc::sync_channel(1);
            let thread = std::thread::Builder::new().name(format!("wrk:{index}")).spawn(move || {
                set_shard(ShardId(u16::try_from(index + 1).unwrap_or(u16::MAX)));
                // It may not leave its thread, so it is made here.
                let dispatcher = setup.dispatcher(index);
                let runtime = match runtime(dispatcher.as_ref()) {
                    Ok(runtime) => runtime,
                    Err(error) => return drop(started.send(Err(error))),
                };
                if started.send(Ok(())).is_ok() {
                    if let Some(dispatcher) = dispatcher {
                        runtime.spawn_local(vital(dispatcher.measure_delays()));
                    }
                    runtime.block_on(vital(run(index, &setup, mailboxes, receiver)));
                }
            })?;
            starts.recv().map_err(io::Error::other)??;
            threads.push(thread);
        }
        Ok(Self { mailboxes, threads })
    }

    /// Number of workers.
    pub fn count(&self) -> usize {
        self.mailboxes.len()
    }

    /// Has every worker install `snapshot`.
    pub fn publish(&self, snapshot: &Arc<Snapshot>) {
        self.tell(|| Message::Snapshot(snapshot.clone()));
    }

    /// Tells every worker that the hosts of the cluster in `slot` changed.
    pub fn hosts_changed(&self, slot: usize) {
        self.tell(|| Message::HostsChanged(slot));
    }

    /// Tells every worker that these hosts left the cluster in `slot`.
    pub fn hosts_left(&self, slot: usize, hosts: &Arc<[Arc<Host>]>) {
        self.tell(|| Message::HostsLeft(slot, hosts.clone()));
    }

    /// Tells every worker that these hosts of the cluster in `slot` failed their checks.
    pub fn hosts_failed(&self, slot: usize, hosts: &Arc<[Arc<Host>]>) {
        self.tell(|| Message::HostsFailed(slot, hosts.clone()));
    }

    /// Adds a listener; `sockets` has the sockets of each worker.
    pub fn add_listener(
        &self,
        tag: ListenerTag,
        config: &Arc<Listener>,
        shared: &Arc<SharedListener>,
        sockets: Vec<Vec<Bound>>,
    ) {
        for (mailbox, sockets) in self.mailboxes.iter().zip(sockets) {
            let _ = mailbox.send(Message::AddListener {
                tag,
                config: config.clone(),
                shared: shared.clone(),
                sockets,
            });
        }
    }

    /// Gives a listener new filter chains, in place.
    pub fn update_chains(&self, tag: ListenerTag, config: &Arc<Listener>) {
        self.tell(|| Message::UpdateChains { tag, config: config.clone() });
    }

    /// Stops a listener from accepting; what is connected stays.
    pub fn stop_listener(&self, tag: ListenerTag) {
        self.tell(|| Message::StopListener(tag));
    }

    /// Removes a listener and drains what is connected.
    pub fn remove_listener(&self, tag: ListenerTag) {
        self.tell(|| Message::RemoveListener(tag));
    }

    /// Ends all workers and what is on them, at once.
    pub fn shutdown(self) {
        self.tell(|| Message::Shutdown);
        for thread in self.threads {
            let _ = thread.join();
        }
    }

    fn tell(&self, message: impl Fn() -> Message) {
        for mailbox in self.mailboxes.iter() {
            let _ = mailbox.send(message());
        }
    }
}

/// So many turns of a worker's loop leave memory behind that is worth giving back.
const WORK: u64 = 1000;
/// A worker whose loop takes fewer turns than this in a second has no work.
const QUIET: u64 = 100;
/// After so many seconds memory is given back once more: other threads may have been slower to free what this one made.
const AGAIN: u32 = 10;

/// Gives memory back, since the allocator does so by itself only while it is busy: each second what has been free for long, in
/// whichever thread; and all that is free when a worker that had work has none any more, and when the overload manager wants it.
async fn tidy(setup: Arc<WorkerSetup>) {
    let WorkerSetup { tidy, give_back, ref overload, .. } = *setup;
    let (mut shrinks, mut again, mut before, mut tidied) = (0, 0, clock::turns(), clock::turns());
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        tidy();
        let wanted = overload.as_ref().map_or(0, |overload| overload.shrinks());
        let shrink = std::mem::replace(&mut shrinks, wanted) != wanted;
        let now = clock::turns();
        let lately = now.wrapping_sub(std::mem::replace(&mut before, now));
        if shrink || now.wrapping_sub(tidied) >= WORK && lately < QUIET {
            give_back();
            (again, tidied) = (AGAIN, now);
        } else if again > 0 {
            again -= 1;
            if again == 0 {
                give_back();
            }
        }
    }
}

/// One thread's runtime; its clock is read once a turn.
fn runtime(dispatcher: Option<&Dispatcher>) -> io::Result<LocalRuntime> {
    clock::turn();
    outbox::open();
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().event_interval(61).on_thread_park(outbox::end_turn).on_thread_unpark(clock::turn);
    if let Some(dispatcher) = dispatcher {
        dispatcher.observe(&mut builder, outbox::end_turn, clock::turn);
    }
    builder.build_local(LocalOptions::default())
}

/// Runs the tasks in the background, unless another worker does.
fn begin_background(context: &Rc<Context>) {
    let Some(mut tasks) = context.env.background.take() else { return };
    let engine: Rc<dyn Engine> = context.clone();
    tokio::task::spawn_local(vital(async move {
        while let Some(task) = tasks.recv().await {
            tokio::task::spawn_local(task(engine.clone()));
        }
    }));
}

async fn run(
    index: usize,
    setup: &Arc<WorkerSetup>,
    mailboxes: Arc<[mpsc::UnboundedSender<Message>]>,
    mut mailbox: mpsc::UnboundedReceiver<Message>,
) {
    let clusters = Rc::new(Clusters::default());
    let routes = Rc::new(Routes::default());
    let context = Rc::new(Context {
        env: setup.env.clone(),
        clusters: clusters.clone(),
        routes: routes.clone(),
        drain: setup.drain.clone(),
        overload: setup.overload.clone(),
        random: RefCell::new(fastrand::Rng::new()),
    });
    let hand_over = move |worker: usize, tag, accepted| {
        if let Some(mailbox) = mailboxes.get(worker) {
            let _ = mailbox.send(Message::Accepted(tag, accepted));
        }
    };
    let listeners = Listeners::new(context.clone(), index, setup.connections.clone(), Box::new(hand_over));
    tokio::task::spawn_local(vital(timers::drive()));
    tokio::task::spawn_local(vital(outbox::serve()));
    let (watchdog, name) = (setup.watchdog.clone(), format!("worker_{index}"));
    let held = setup.env.stats.scope(&format!("thread_local_cluster_manager.{name}"));
    let held: Shared<ThreadLocalClusterManagerStats> = held.shared();
    tokio::task::spawn_local(async move { watchdog.watch(&name, "workers").await });
    let sweeping = clusters.clone();
    tokio::task::spawn_local(vital(async move { sweeping.sweep().await }));
    tokio::task::spawn_local(vital(tidy(setup.clone())));
    overload::heed(setup.overload.as_ref());
    if let Some(overload) = &setup.overload {
        let (reducing, resetting) = (overload.clone(), overload.clone());
        tokio::task::spawn_local(vital(async move { reducing.reduce_timeouts().await }));
        tokio::task::spawn_local(vital(async move { resetting.reset_streams().await }));
    }
    let (drain_time, strategy): (Duration, DrainStrategy) = (setup.drain.time(), setup.drain.strategy());
    while let Some(message) = mailbox.recv().await {
        match message {
            Message::Snapshot(snapshot) => {
                clusters.install(&snapshot.clusters);
                held.clusters_inflated.set(snapshot.clusters.iter().flatten().count() as u64);
                routes.install(&snapshot.routes);
                // (Now there are clusters to call.)
                begin_background(&context);
            }
            Message::HostsChanged(slot) => clusters.hosts_changed(slot),
            Message::HostsLeft(slot, hosts) => clusters.hosts_left(slot, &hosts),
            Message::HostsFailed(slot, hosts) => clusters.hosts_failed(slot, &hosts),
            Message::AddListener { tag, config, shared, sockets } => {
                listeners.add(tag, config, shared, sockets)
            }
            Message::UpdateChains { tag, config } => {
                listeners.update_chains(tag, &config, drain_time, strategy);
            }
            Message::StopListener(tag) => listeners.stop(tag),
            Message::RemoveListener(tag) => listeners.remove(tag, drain_time, strategy),
            Message::Accepted(tag, accepted) => listeners.take_over(tag, accepted),
            Message::Shutdown => break,
        }
        // It may have been a large one.
        clock::turn();
    }
}
