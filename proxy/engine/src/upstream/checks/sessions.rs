//! The main thread's side of health checks: one task for each host, and what they found.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use proxy_core::stats::Shared;
use proxy_core::stats::groups::{HealthCheckerStats, HealthChecksStats};
use proxy_core::upstream::{
    CheckFailure, CheckOutcome, CheckResult, FailureKind, Host, HostChecks, HostSet, IntervalLimits, Together,
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
    /// The host is another one for balancing.
    pub(in crate::upstream) changed: bool,
    /// It fails checks from now on.
    pub(in crate::upstream) fell: bool,
}

impl Found {
    fn new(host: &Arc<Host>, result: CheckResult, outcome: &CheckOutcome) -> Self {
        let passed = matches!(result, CheckResult::Passed { .. });
        Self { host: host.clone(), passed, changed: outcome.changed, fell: outcome.fell }
    }
}

/// The checks of some hosts of a cluster by one checker. They end when this is dropped.
pub(in crate::upstream) struct Sessions {
    cluster: Arc<Cluster>,
    checker: Arc<Checker>,
    running: HashMap<*const Host, Session>,
    /// To whom each result is told, if anybody wants to know.
    find: Option<mpsc::UnboundedSender<Found>>,
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
    /// Of no hosts yet, whose flags are all that is told.
    pub(in crate::upstream) fn new(cluster: &Arc<Cluster>, checker: &Arc<Checker>) -> Self {
        let (cluster, checker) = (cluster.clone(), checker.clone());
        Self { cluster, checker, running: HashMap::new(), find: None }
    }

    /// Takes the hosts as they are now: new ones are checked, those that are gone no longer. Needs a local set. What is known of a new one is
    /// counted in these statistics.
    pub(in crate::upstream) fn set_hosts<'h>(
        &mut self,
        hosts: impl Iterator<Item = &'h Arc<Host>>,
        known: impl Fn(&Arc<Host>, Shared<HealthCheckerStats>) -> HostChecks,
    ) {
        let mut before = std::mem::take(&mut self.running);
        for host in hosts.filter(|host| !host.is_never_checked()) {
            let key = Arc::as_ptr(host);
            if self.running.contains_key(&key) {
                continue;
            }
            let session =
                before.remove(&key).unwrap_or_else(|| self.begin(known(host, self.checker.stats.clone())));
            self.running.insert(key, session);
        }
    }

    fn begin(&self, known: HostChecks) -> Session {
        let state = Rc::new(RefCell::new(known));
        let run = run(self.cluster.clone(), self.checker.clone(), state.clone(), self.find.clone());
        Session { state, task: tokio::task::spawn_local(run).abort_handle() }
    }
}

/// The checks of all hosts of a cluster that has clients: what is found is told to balancing, and answers to requests count, too.
pub(in crate::upstream) struct Findings {
    /// Those of each check.
    sessions: Vec<Sessions>,
    /// What all checks together count, and what they come to for each host, where there are several.
    together: Option<Standings>,
    generation: u64,
    /// From the tasks; what waits is bounded by their number.
    found: mpsc::UnboundedReceiver<Found>,
    told: mpsc::UnboundedReceiver<Arc<Host>>,
}

/// What several checks come to for each host.
struct Standings {
    stats: Shared<HealthChecksStats>,
    of: HashMap<*const Host, Rc<Together>>,
}

impl Standings {
    fn set_hosts(&mut self, hosts: &HostSet) {
        let mut before = std::mem::take(&mut self.of);
        for host in hosts.hosts() {
            let known = before.remove(&Arc::as_ptr(host));
            self.of.insert(Arc::as_ptr(host), known.unwrap_or_else(|| Together::new(host, &self.stats)));
        }
    }
}

impl Findings {
    /// Those of `cluster`; `None` if it has no checks, or somebody runs them already.
    pub(in crate::upstream) fn new(cluster: &Arc<Cluster>) -> Option<Self> {
        let checks = cluster.checks.as_ref()?;
        let told = checks.take_told()?;
        let (find, found) = mpsc::unbounded_channel();
        let of_one = |checker| Sessions { find: Some(find.clone()), ..Sessions::new(cluster, checker) };
        let sessions = checks.checkers.iter().map(of_one).collect();
        let together = checks.stats.clone().map(|stats| Standings { stats, of: HashMap::new() });
        Some(Self { sessions, together, generation: 0, found, told })
    }

    /// Takes the hosts as they are now. Needs a local set.
    pub(in crate::upstream) fn set_hosts(&mut self, hosts: &HostSet) {
        if self.generation == hosts.generation() {
            return;
        }
        self.generation = hosts.generation();
        if let Some(together) = &mut self.together {
            together.set_hosts(hosts);
        }
        let together = self.together.as_ref().map(|together| &together.of);
        for sessions in &mut self.sessions {
            sessions.set_hosts(hosts.hosts(), |host, stats| {
                match together.and_then(|together| together.get(&Arc::as_ptr(host))) {
                    Some(together) => HostChecks::among(together, stats),
                    None => HostChecks::new(host.clone(), stats),
                }
            });
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

    /// Answers of `host` to requests said that checks fail: that counts for the last of them, as in Envoy.
    fn take_passive(&self, host: &Arc<Host>, all: &mut Vec<Found>) {
        let count = host.take_passive_failures();
        let Some(Sessions { cluster, checker, running, .. }) = self.sessions.last() else { return };
        let Some(session) = running.get(&Arc::as_ptr(host)) else { return };
        let result = CheckResult::Failed(CheckFailure::of(FailureKind::Passive));
        for _ in 0..count {
            let outcome = take(cluster, checker, &session.state, result);
            all.push(Found::new(host, result, &outcome));
        }
    }
}

/// Takes a result, and writes down what it brought about.
fn take(
    cluster: &Cluster,
    checker: &Checker,
    state: &RefCell<HostChecks>,
    result: CheckResult,
) -> CheckOutcome {
    let mut state = state.borrow_mut();
    let outcome = state.take(result, &checker.settings);
    checker.log.write(cluster.name.as_str(), state.host(), &outcome.events);
    outcome
}

/// Checks one host for ever.
async fn run(
    cluster: Arc<Cluster>,
    checker: Arc<Checker>,
    state: Rc<RefCell<HostChecks>>,
    find: Option<mpsc::UnboundedSender<Found>>,
) {
    let host = state.borrow().host().clone();
    let mut random = fastrand::Rng::new();
    let mut probe = Probe::new(&cluster, &checker, &host);
    if let Some(delay) = checker.settings.until_first(IntervalLimits::now(&cluster.runtime), &mut random) {
        tokio::time::sleep(delay).await;
    }
    loop {
        let mut result = check(&checker, &mut probe).await;
        loop {
            let outcome = take(&cluster, &checker, &state, result);
            let limits = IntervalLimits::now(&cluster.runtime);
            let has_traffic = cluster.had_traffic();
            let transition = outcome.transition;
            let next = checker.settings.until_next(result, transition, has_traffic, limits, &mut random);
            if let Some(find) = &find
                && find.send(Found::new(&host, result, &outcome)).is_err()
            {
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
            if checker.is_http() {
                probe.host.set_check_status(None);
            }
            if !checker.outlives_timeouts() {
                probe.kept = None;
            }
            CheckResult::Failed(CheckFailure::of(FailureKind::Timeout))
        }
    }
}
