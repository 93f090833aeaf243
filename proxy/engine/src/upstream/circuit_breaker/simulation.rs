//! Random schedules of what is taken and given back, of requests that are tried again, of what the runtime says, and of clusters that
//! replace each other while much of the older ones is still taken, beside a plain reading of Envoy's rules. `SEED=n make sim` repeats one.
//!
//! What is checked after every step, of each form of the cluster that anything still holds: what is taken, the limit, and whether it is
//! reached; that nothing was taken beyond the limit but by who may; and the gauges, which are those of all forms together. In the end
//! nothing is taken and every gauge is where it began.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use proxy_core::config::{BuildCx, BuildEnv};
use proxy_core::retry::Decision;
use proxy_core::runtime::RuntimeLayer;
use proxy_core::stats::groups::{CircuitBreakerRemainingStats, ClusterStateStats, ClusterTrafficStats};
use proxy_core::stats::{Cells, Shared};
use xds_api::envoy::config::cluster::v3 as proto;
use xds_api::envoy::config::cluster::v3::circuit_breakers::Thresholds;
use xds_api::envoy::config::cluster::v3::circuit_breakers::thresholds::RetryBudget;
use xds_api::envoy::config::cluster::v3::cluster::DiscoveryType;
use xds_api::envoy::r#type::v3::Percent;

use super::{BreakerPriority, Permit, RESOURCES, Resource};
use crate::upstream::cluster::Cluster;
use crate::upstream::retry_state::{Granted, RetryState};
use crate::upstream::tests::cluster;

const PRIORITIES: [BreakerPriority; 2] = [BreakerPriority::Default, BreakerPriority::High];
const RETRIES: usize = Resource::Retries as usize;
/// Percents come in eighths of a hundred, so that shares of them are whole numbers where they should be.
const EIGHTH: f64 = 12.5;

/// A budget: eighths of what is in flight, and how many are always allowed.
type Budget = (u32, u32);

/// The limits of one priority, as they are configured, and what is taken.
#[derive(Clone, Debug)]
struct Side {
    configured: ([u32; RESOURCES], Option<Budget>),
    is_tracked: bool,
    max: [u32; RESOURCES],
    budget: Option<Budget>,
    used: [u32; RESOURCES],
    shown_open: [bool; RESOURCES],
}

impl Side {
    fn is_open(&self, resource: usize) -> bool {
        self.used[resource] >= self.max[resource]
    }

    /// How many retries there may be, if a budget says so.
    fn budgeted(&self) -> Option<u32> {
        let (eighths, min) = self.budget?;
        let active = self.used[Resource::Requests as usize] + self.used[Resource::Pending as usize];
        Some((active * eighths / 8).max(min))
    }

    fn changed(&mut self, resource: usize, used: u32) {
        self.used[resource] = used;
        self.shown_open[resource] = self.is_open(resource);
    }

    fn take(&mut self, resource: usize) {
        self.changed(resource, self.used[resource] + 1);
    }

    fn give_back(&mut self, resource: usize) {
        self.changed(resource, self.used[resource] - 1);
    }

    /// What is left of `resource`, as it is shown.
    fn left(&self, resource: usize) -> u64 {
        let (max, used) = (self.max[resource], self.used[resource]);
        match resource {
            RETRIES if self.budget.is_some() => 0,
            _ if resource == Resource::Pools as usize && max == u32::MAX => u64::MAX - u64::from(used),
            _ => u64::from(max.saturating_sub(used)),
        }
    }
}

/// One form of the cluster.
struct Form {
    /// While it is in the store.
    cluster: Option<Arc<Cluster>>,
    seen: Weak<Cluster>,
    sides: [Side; 2],
}

/// Something that is taken, of which form.
struct Held {
    form: usize,
    priority: BreakerPriority,
    resource: usize,
    _permit: Permit<Arc<Cluster>>,
}

/// A request that may be tried again.
struct Request {
    state: RetryState,
    priority: BreakerPriority,
    left: u64,
    /// Of which form its retry is.
    retry_of: Option<usize>,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Counts {
    success: u64,
    limit_exceeded: u64,
    overflow: u64,
}

struct World {
    random: fastrand::Rng,
    env: BuildEnv,
    /// What the runtime says.
    runtime: BTreeMap<String, String>,
    forms: BTreeMap<usize, Form>,
    next_form: usize,
    held: Vec<Held>,
    requests: Vec<Request>,
    counts: Counts,
    traffic: Cells<ClusterTrafficStats>,
    state: Shared<ClusterStateStats>,
    remaining: [Shared<CircuitBreakerRemainingStats>; 2],
}

fn side(priority: BreakerPriority) -> usize {
    usize::from(priority == BreakerPriority::High)
}

fn thresholds(random: &mut fastrand::Rng, priority: BreakerPriority) -> (Thresholds, Side) {
    let mut max = [1024, 1024, 1024, 3, u32::MAX];
    let mut limit = |resource: Resource| {
        let limit = random.bool().then(|| random.u32(0..6));
        max[resource as usize] = limit.unwrap_or(max[resource as usize]);
        limit
    };
    let mut proto = Thresholds {
        priority: i32::from(priority == BreakerPriority::High),
        max_connections: limit(Resource::Connections),
        max_pending_requests: limit(Resource::Pending),
        max_requests: limit(Resource::Requests),
        max_retries: limit(Resource::Retries),
        max_connection_pools: limit(Resource::Pools),
        track_remaining: random.u8(..4) > 0,
        ..Thresholds::default()
    };
    let budget = (random.u8(..3) == 0).then(|| (random.u32(0..=8), random.u32(0..4)));
    proto.retry_budget = budget.map(|(eighths, min)| RetryBudget {
        budget_percent: Some(Percent { value: f64::from(eighths) * EIGHTH }),
        min_retry_concurrency: Some(min),
        ..RetryBudget::default()
    });
    let side = Side {
        configured: (max, budget),
        is_tracked: proto.track_remaining,
        max,
        budget,
        used: [0; RESOURCES],
        shown_open: [false; RESOURCES],
    };
    (proto, side)
}

impl World {
    fn new(seed: u64) -> Self {
        let env = BuildEnv::new(1);
        let scope = env.stats.scope("cluster.c");
        let remaining =
            PRIORITIES.map(|priority| scope.child(&format!("circuit_breakers.{}", priority.name())).shared());
        let mut world = Self {
            random: fastrand::Rng::with_seed(seed),
            traffic: scope.cells(),
            state: scope.shared(),
            remaining,
            env,
            runtime: BTreeMap::new(),
            forms: BTreeMap::new(),
            next_form: 0,
            held: Vec::new(),
            requests: Vec::new(),
            counts: Counts::default(),
        };
        world.build();
        world
    }

    /// A new form of the cluster comes into the store.
    fn build(&mut self) {
        let mut proto = cluster(DiscoveryType::Static, Vec::new());
        let sides = PRIORITIES.map(|priority| thresholds(&mut self.random, priority));
        let thresholds = sides.iter().map(|(proto, _)| *proto).collect();
        proto.circuit_breakers = Some(proto::CircuitBreakers { thresholds, per_host_thresholds: Vec::new() });
        let built = Cluster::build(&proto, &mut BuildCx::new(&self.env)).unwrap();
        let sides = sides.map(|(_, side)| side);
        let mut form = Form { seen: Arc::downgrade(&built), cluster: Some(built), sides };
        self.rule(&mut form);
        self.forms.insert(self.next_form, form);
        self.next_form += 1;
    }

    /// The limits of a form that follows the runtime.
    fn rule(&self, form: &mut Form) {
        for (side, priority) in form.sides.iter_mut().zip(PRIORITIES) {
            let number = |key: &str| {
                self.runtime
                    .get(&format!("circuit_breakers.c.{}.{key}", priority.name()))?
                    .parse::<f64>()
                    .ok()
            };
            let (max, budget) = side.configured;
            side.max = max;
            for (max, resource) in side.max.iter_mut().zip(Resource::ALL) {
                *max = number(resource.runtime_key()).map_or(*max, |ruled| ruled as u32);
            }
            let percent = number("retry_budget.budget_percent");
            let min = number("retry_budget.min_retry_concurrency");
            side.budget = match (percent, min) {
                (None, None) => budget,
                _ => {
                    let (eighths, least) = budget.unwrap_or((0, 3));
                    let eighths = percent.map_or(eighths, |percent| (percent / EIGHTH) as u32);
                    Some((eighths, min.map_or(least, |min| min as u32)))
                }
            };
        }
    }

    /// The runtime says something else, and whatever is in the store follows.
    fn say(&mut self) {
        self.runtime.clear();
        for priority in PRIORITIES {
            let mut set = |key: &str, value: String| {
                self.runtime.insert(format!("circuit_breakers.c.{}.{key}", priority.name()), value);
            };
            for resource in Resource::ALL {
                if self.random.u8(..4) == 0 {
                    set(resource.runtime_key(), self.random.u32(0..6).to_string());
                }
            }
            // (Without a percentage, where none is configured, it is 20 %, of which the model has no eighths.)
            if self.random.u8(..3) == 0 {
                let percent = f64::from(self.random.u32(0..=8)) * EIGHTH;
                set("retry_budget.budget_percent", percent.to_string());
                if self.random.bool() {
                    set("retry_budget.min_retry_concurrency", self.random.u32(0..4).to_string());
                }
            }
        }
        if self.random.u8(..4) == 0 {
            self.runtime.insert("upstream.use_retry".to_owned(), "50".to_owned());
        }
        let values = self.runtime.clone();
        self.env.runtime.set_layers(vec![RuntimeLayer { values, ..RuntimeLayer::default() }]);
        let mut forms = std::mem::take(&mut self.forms);
        for form in forms.values_mut() {
            if let Some(cluster) = form.cluster.clone() {
                cluster.follow_runtime();
                self.rule(form);
            }
        }
        self.forms = forms;
    }

    /// A form of those in the store, and a priority.
    fn any(&mut self) -> (usize, Arc<Cluster>, BreakerPriority) {
        let there: Vec<_> =
            self.forms.iter().filter_map(|(id, form)| Some((*id, form.cluster.clone()?))).collect();
        let (id, cluster) = self.random.choice(there).unwrap();
        (id, cluster, PRIORITIES[self.random.usize(..2)])
    }

    fn side(&mut self, form: usize, priority: BreakerPriority) -> &mut Side {
        &mut self.forms.get_mut(&form).unwrap().sides[side(priority)]
    }

    fn take(&mut self) {
        let (form, cluster, priority) = self.any();
        let resource = [
            Resource::Connections,
            Resource::Pending,
            Resource::Requests,
            Resource::Requests,
            Resource::Pools,
        ][self.random.usize(..5)];
        let is_over = self.random.u8(..8) == 0;
        let permit = match is_over {
            true => Some(Permit::acquire_over(cluster, priority, resource)),
            false => Permit::acquire(cluster, priority, resource).ok(),
        };
        let resource = resource as usize;
        let side = self.side(form, priority);
        assert_eq!(permit.is_some(), is_over || !side.is_open(resource), "{side:?}");
        if let Some(permit) = permit {
            side.take(resource);
            assert!(is_over || side.used[resource] <= side.max[resource], "{side:?}");
            self.held.push(Held { form, priority, resource, _permit: permit });
        }
    }

    fn give_back(&mut self) {
        if self.held.is_empty() {
            return;
        }
        let held = self.held.swap_remove(self.random.usize(..self.held.len()));
        self.side(held.form, held.priority).give_back(held.resource);
    }

    fn begin(&mut self) {
        let (left, priority) = (self.random.u64(0..5), PRIORITIES[self.random.usize(..2)]);
        self.requests.push(Request {
            state: RetryState::new(left, priority),
            priority,
            left,
            retry_of: None,
        });
    }

    /// The retry of a request is over.
    fn retried(&mut self, request: &mut Request) -> bool {
        let Some(form) = request.retry_of.take() else { return false };
        self.side(form, request.priority).give_back(RETRIES);
        true
    }

    /// A try of a request ends.
    fn ends(&mut self) {
        if self.requests.is_empty() {
            return self.begin();
        }
        let mut request = self.requests.swap_remove(self.random.usize(..self.requests.len()));
        let (form, cluster, _) = self.any();
        let decision = [Decision::Keep, Decision::AtOnce, Decision::AfterPause][self.random.usize(..3)];
        let number = self.random.u64(..100);
        let granted = request.state.take(&cluster, decision, &self.env.runtime, || number);
        let expected = if decision == Decision::Keep {
            match self.retried(&mut request) {
                true => Granted::Success,
                false => Granted::Unwanted,
            }
        } else if request.left == 0 {
            Granted::LimitExceeded
        } else {
            request.left -= 1;
            self.retried(&mut request);
            let is_taken = !self.runtime.contains_key("upstream.use_retry") || number < 50;
            let side = self.side(form, request.priority);
            let most = side.budgeted().unwrap_or(side.max[RETRIES]);
            if side.used[RETRIES] >= most {
                Granted::Overflow
            } else {
                side.take(RETRIES);
                assert!(side.used[RETRIES] <= most, "{side:?}");
                request.retry_of = Some(form);
                if !is_taken {
                    self.retried(&mut request);
                }
                if is_taken { Granted::Again } else { Granted::Untaken }
            }
        };
        assert_eq!(granted, expected, "{decision:?}");
        match granted {
            Granted::Success => self.counts.success += 1,
            Granted::LimitExceeded => self.counts.limit_exceeded += 1,
            Granted::Overflow => self.counts.overflow += 1,
            Granted::Unwanted | Granted::Untaken | Granted::Again => {}
        }
        self.requests.push(request);
    }

    /// A request is over, or its retry is, before anything is known of its end.
    fn leaves(&mut self) {
        if self.requests.is_empty() {
            return;
        }
        let mut request = self.requests.swap_remove(self.random.usize(..self.requests.len()));
        self.retried(&mut request);
        if self.random.bool() {
            request.state.release();
            self.requests.push(request);
        }
    }

    /// A form leaves the store; who holds something of it keeps it.
    fn retire(&mut self) {
        let there: Vec<usize> =
            self.forms.iter().filter(|(_, form)| form.cluster.is_some()).map(|(id, _)| *id).collect();
        if there.len() > 1 {
            let id = there[self.random.usize(..there.len())];
            self.forms.get_mut(&id).unwrap().cluster = None;
        }
    }

    /// Forgets the forms that nothing holds any more.
    fn forget(&mut self) {
        self.forms.retain(|_, form| {
            let is_held = form.sides.iter().any(|side| side.used != [0; RESOURCES]);
            let is_there = form.cluster.is_some() || is_held;
            assert_eq!(form.seen.strong_count() > 0, is_there, "{:?}", form.sides);
            is_there
        });
    }

    fn check(&mut self) {
        self.forget();
        for (of, priority) in PRIORITIES.into_iter().enumerate() {
            for resource in Resource::ALL {
                let number = resource as usize;
                let (mut open, mut left) = (0, 0_u64);
                for form in self.forms.values() {
                    let (side, cluster) = (&form.sides[of], form.seen.upgrade().unwrap());
                    let most = match resource {
                        Resource::Retries => side.budgeted().unwrap_or(side.max[number]),
                        _ => side.max[number],
                    };
                    let breakers = &cluster.breakers;
                    let found = (
                        breakers.used(priority, resource),
                        breakers.max(priority, resource),
                        breakers.is_open(priority, resource),
                    );
                    assert_eq!(found, (side.used[number], most, side.is_open(number)), "{side:?}");
                    open += u64::from(side.shown_open[number]);
                    left = left.wrapping_add(if side.is_tracked { side.left(number) } else { 0 });
                }
                let found = (
                    resource.open_gauge(&self.state, priority).value(),
                    resource.remaining(&self.remaining[of]).value(),
                );
                assert_eq!(found, (open, left), "{priority:?} {resource:?}");
            }
        }
        let counted = self.traffic.here();
        let found = Counts {
            success: counted.upstream_rq_retry_success.value(),
            limit_exceeded: counted.upstream_rq_retry_limit_exceeded.value(),
            overflow: counted.upstream_rq_retry_overflow.value(),
        };
        assert_eq!(found, self.counts);
    }

    fn step(&mut self) {
        match self.random.u8(..64) {
            0..24 => self.take(),
            24..40 => self.give_back(),
            40..42 => self.begin(),
            42..54 => self.ends(),
            54..57 => self.leaves(),
            57..60 => self.say(),
            60 | 61 => self.build(),
            _ => self.retire(),
        }
    }
}

fn run(seed: u64) {
    let mut world = World::new(seed);
    for _ in 0..300 {
        world.step();
        world.check();
    }
    // (What is left of all forms of a name is that of none.)
    for form in world.forms.values_mut() {
        form.cluster = None;
    }
    while !world.held.is_empty() {
        world.give_back();
        world.check();
    }
    while !world.requests.is_empty() {
        world.leaves();
        world.check();
    }
    assert!(world.forms.is_empty());
    for (priority, remaining) in PRIORITIES.into_iter().zip(&world.remaining) {
        for resource in Resource::ALL {
            let gauges = [resource.open_gauge(&world.state, priority), resource.remaining(remaining)];
            assert_eq!(gauges.map(|gauge| gauge.value()), [0, 0], "{priority:?} {resource:?}");
        }
    }
}

#[test]
fn simulation_of_breakers_keeps_to_the_model() {
    simulate::each_seed(400, run);
}
