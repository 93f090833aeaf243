//! What to resolve when, and what the answers mean. No sockets and no clock: time and answers come in as arguments.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use proxy_core::address::Address;
use proxy_core::upstream::{Assignment, Endpoint, LocalityEndpoints};
use tokio::time::Instant;

use super::config::{DnsConfig, DnsKind, DnsTarget, random_below};

/// What a resolver found for a name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// The addresses; none if the name exists without any, or does not exist.
    pub addresses: Vec<IpAddr>,
    /// How long the answer is valid; zero if unknown.
    pub ttl: Duration,
    /// There is no such name.
    pub is_absent: bool,
}

/// Why a name could not be resolved: no server answered, or not sensibly.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct ResolveError {
    /// What is known of it.
    pub text: String,
    /// Envoy's words for it.
    pub details: &'static str,
}

/// How an answer counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The hosts are as the answer says, which for STRICT_DNS may be none.
    Answered,
    /// The last hosts stay: nothing is known, or (LOGICAL_DNS) there are no addresses.
    Failed,
}

/// The names of one DNS cluster with their times and last answers.
#[derive(Debug)]
pub struct Schedule {
    config: Box<DnsConfig>,
    names: Vec<NameState>,
    random: fastrand::Rng,
}

#[derive(Debug)]
struct NameState {
    name: Arc<str>,
    /// When to ask; `None` while an answer is awaited.
    due: Option<Instant>,
    /// Failures in a row.
    failures: u32,
    answer: Vec<IpAddr>,
}

impl Schedule {
    /// Every name of `config` is due at once.
    pub fn new(config: &DnsConfig, now: Instant, random: fastrand::Rng) -> Self {
        let mut names: Vec<NameState> = Vec::new();
        let endpoints = config.targets.localities.iter().flat_map(|locality| &locality.endpoints);
        for endpoint in endpoints {
            let name = &endpoint.address.name;
            if !names.iter().any(|known| known.name == *name) {
                let (name, answer) = (name.clone(), Vec::new());
                names.push(NameState { name, due: Some(now), failures: 0, answer });
            }
        }
        Self { config: Box::new(config.clone()), names, random }
    }

    /// The names to ask for now; each is then awaited until [`Self::answered`].
    pub fn take_due(&mut self, now: Instant) -> Vec<Arc<str>> {
        let mut due = Vec::new();
        for state in &mut self.names {
            if state.due.is_some_and(|at| at <= now) {
                state.due = None;
                due.push(state.name.clone());
            }
        }
        due
    }

    /// When the next name is due; `None` if all are awaited or there are none.
    pub fn next_due(&self) -> Option<Instant> {
        self.names.iter().filter_map(|state| state.due).min()
    }

    /// Takes the answer for `name` and sets its next time.
    pub fn answered(&mut self, name: &str, answer: Result<Answer, ResolveError>, now: Instant) -> Outcome {
        let Some(index) = self.names.iter().position(|state| *state.name == *name) else {
            return Outcome::Failed;
        };
        let is_failure =
            |answer: &Answer| answer.addresses.is_empty() && self.config.kind == DnsKind::Logical;
        let Some(answer) = answer.ok().filter(|answer| !is_failure(answer)) else {
            let failures = self.names[index].failures;
            let wait = self.config.failure_refresh.wait(failures, &mut self.random);
            let state = &mut self.names[index];
            state.failures = failures.saturating_add(1);
            state.due = Some(now + wait);
            return Outcome::Failed;
        };
        let mut wait = self.config.refresh_rate;
        if self.config.respect_ttl && !answer.addresses.is_empty() && !answer.ttl.is_zero() {
            wait = answer.ttl.max(self.config.min_refresh_rate);
        }
        if !self.config.jitter.is_zero() {
            wait += random_below(self.config.jitter, &mut self.random);
        }
        let state = &mut self.names[index];
        state.failures = 0;
        state.due = Some(now + wait);
        // An answer that is only in another order moves no logical host: servers rotate them.
        let same = |new: &[IpAddr], old: &[IpAddr]| {
            new.len() == old.len() && new.iter().all(|address| old.contains(address))
        };
        if self.config.kind == DnsKind::Strict || !same(&answer.addresses, &state.answer) {
            state.answer = answer.addresses;
        }
        Outcome::Answered
    }

    /// The endpoints as the answers have them now.
    pub fn assignment(&self) -> Assignment {
        let localities = self.config.targets.localities.iter();
        Assignment {
            localities: localities.map(|locality| self.locality(locality)).collect(),
            policy: self.config.targets.policy.clone(),
        }
    }

    fn locality(&self, from: &LocalityEndpoints<DnsTarget>) -> LocalityEndpoints {
        let mut endpoints = Vec::new();
        for endpoint in &from.endpoints {
            let addresses = self.addresses(&endpoint.address);
            match self.config.kind {
                DnsKind::Strict => {
                    endpoints.extend(addresses.into_iter().map(|one| host(endpoint, one, Box::default())));
                }
                DnsKind::Logical => {
                    if let Some((first, rest)) = addresses.split_first() {
                        endpoints.push(host(endpoint, first.clone(), rest.into()));
                    }
                }
            }
        }
        LocalityEndpoints {
            locality: from.locality.clone(),
            priority: from.priority,
            weight: from.weight,
            endpoints,
        }
    }

    fn addresses(&self, target: &DnsTarget) -> Vec<Address> {
        let state = self.names.iter().find(|state| state.name == target.name);
        let answer = state.into_iter().flat_map(|state| &state.answer);
        answer.map(|ip| SocketAddr::new(*ip, target.port).into()).collect()
    }
}

/// The endpoint at a resolved address, called by its configured hostname, else by the name that was resolved.
fn host(from: &Endpoint<DnsTarget>, address: Address, additional: Box<[Address]>) -> Endpoint {
    let hostname = if from.hostname.is_empty() { &from.address.name } else { &from.hostname };
    Endpoint {
        address,
        additional_addresses: additional,
        hostname: hostname.clone(),
        weight: from.weight,
        health: from.health,
        metadata: from.metadata.clone(),
        check: from.check.clone(),
    }
}
