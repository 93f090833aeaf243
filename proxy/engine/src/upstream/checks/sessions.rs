//! The main thread's side of health checks: one task for each host, and what they found.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use proxy_core::upstream::{
    CheckFailure, CheckResult, FailureKind, Host, HostChecks, HostSet, IntervalLimits, Transition,
};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::Checker;
use super::wire::Probe;
use crate::upstream::cluster::Cluster;

/// What came of a check.
#[derive(Debug)]
pub(in crate::upstream) struct Found {
    pub(in crate::upstream) host: Arc<Host>,
    pub(in crate::upstream) passed: bool,
    pub(in crate::upstream) transition: Transition,
}

/// The checks of all hosts of a cluster. They end when this is dropped.
pub(in crate::upstream) struct Sessions {
    cluster: Arc<Cluster>,
    running: HashMap<*const Host, Session>,
    generation: u64,
    /// To this end from the tasks; what waits is bounded by their number.
    find: mpsc::UnboundedSender<Found>,
    found: mpsc::UnboundedReceiver<Found>,
    told: mpsc::UnboundedReceiver<Arc<Host>>,
}

/// The checks of one host.
struct Session {
    state: Rc<RefCell<HostChecks>>,
    task: AbortHandle,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Sessions {
    /// Those of `cluster`; `None` if it has none, or somebody runs them already. Needs a local set.
    pub(in crate::upstream) fn new(cluster: &Arc<Cluster>) -> Option<Self> {
        let told = cluster.checker.as_ref()?.take_told()?;
        let (find, found) = mpsc::unbounded_channel();
        let running = HashMap::new();
        Some(Self { cluster: cluster.clone(), running, generation: 0, find, found, told })
    }

    /// Takes the hosts as they are now: new ones are checked, those that are gone no longer.
    pub(in crate::upstream) fn set_hosts(&mut self, hosts: &HostSet) {
        let Some(checker) = &self.cluster.checker else { return };
        if self.generation == hosts.generation() {
            return;
        }
        self.generation = hosts.generation();
        let mut before = std::mem::take(&mut self.running);
        for host in hosts.hosts().filter(|host| !host.is_never_checked()) {
            let key = Arc::as_ptr(host);
            let session = before.remove(&key).unwrap_or_else(|| {
                let state = Rc::new(RefCell::new(HostChecks::new(host.clone(), checker.stats.clone())));
                let run = run(self.cluster.clone(), state.clone(), self.find.clone());
                Session { state, task: tokio::task::spawn_local(run).abort_handle() }
            });
            self.running.insert(key, session);
        }
    }

    /// Waits for results, and takes all there are: what came together becomes one change of the hosts. Cancel-safe.
    pub(in crate::upstream) async fn found(&mut self) -> Vec<Found> {
        let mut all = Vec::new();
        tokio::select! {
            Some(found) = self.found.recv() => all.push(found),
            Some(host) = self.told.recv() => self.take_passive(&host, &mut all),
            else => std::future::pending().await,
        }
        while let Ok(found) = self.found.try_recv() {
            all.push(found);
        }
        while let Ok(host) = self.told.try_recv() {
            self.take_passive(&host, &mut all);
        }
        all
    }

    /// Answers of `host` to requests said that checks fail.
    fn take_passive(&self, host: &Arc<Host>, all: &mut Vec<Found>) {
        let count = host.take_passive_failures();
        let Some(session) = self.running.get(&Arc::as_ptr(host)) else { return };
        let result = CheckResult::Failed(CheckFailure::of(FailureKind::Passive));
        for _ in 0..count {
            all.extend(take(&self.cluster, &session.state, result));
        }
    }
}

/// Takes a result, and writes down what it brought about.
fn take(cluster: &Cluster, state: &RefCell<HostChecks>, result: CheckResult) -> Option<Found> {
    let checker = cluster.checker.as_ref()?;
    let mut state = state.borrow_mut();
    let outcome = state.take(result, &checker.settings);
    let host = state.host().clone();
    checker.log.write(cluster.name.as_str(), &host, &outcome.events);
    let passed = matches!(result, CheckResult::Passed { .. });
    Some(Found { host, passed, transition: outcome.transition })
}

/// Checks one host for ever.
async fn run(cluster: Arc<Cluster>, state: Rc<RefCell<HostChecks>>, find: mpsc::UnboundedSender<Found>) {
    let Some(checker) = &cluster.checker else { return };
    let host = state.borrow().host().clone();
    let mut random = fastrand::Rng::new();
    let mut probe = Probe::new(&cluster, checker, &host);
    if let Some(delay) = checker.settings.until_first(IntervalLimits::now(&cluster.runtime), &mut random) {
        tokio::time::sleep(delay).await;
    }
    loop {
        let mut result = check(checker, &mut probe).await;
        loop {
            let Some(found) = take(&cluster, &state, result) else { return };
            let limits = IntervalLimits::now(&cluster.runtime);
            let has_traffic = cluster.had_traffic();
            let transition = found.transition;
            let next = checker.settings.until_next(result, transition, has_traffic, limits, &mut random);
            if find.send(found).is_err() {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep(next) => break,
                // A connection that a host ends by itself is a failure of the host, as in Envoy.
                () = probe.abandoned() => {
                    result = CheckResult::Failed(CheckFailure::of(FailureKind::Network));
                }
            }
        }
    }
}

/// Does one check within its time.
async fn check(checker: &Checker, probe: &mut Probe<'_>) -> CheckResult {
    checker.stats.attempt.inc();
    match tokio::time::timeout(checker.settings.timeout, Box::pin(checker.ask(probe))).await {
        Ok(result) => result,
        Err(_) => {
            if !checker.outlives_timeouts() {
                probe.kept = None;
            }
            CheckResult::Failed(CheckFailure::of(FailureKind::Timeout))
        }
    }
}
