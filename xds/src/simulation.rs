//! Random schedules of responses, disconnects, interest, verdicts and time, against what has to hold in all of them.
//!
//! A schedule is bytes, four a step: from a seed (`SEED=n make sim` repeats one), or from a fuzzer. What is checked:
//! * every response is answered once, by its nonce, on its stream, and nothing else is;
//! * a request never claims a version that was rejected, nor a resource that is not in force;
//! * only what is wanted is delivered; a full state takes away what it does not hold, and a rejected one nothing;
//! * when everything has been said, the server knows exactly what is wanted.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a schedule that shows a fault fails"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use prost::Message as _;
use prost_types::Any;
use xds_api::envoy::config::cluster::v3::Cluster;
use xds_api::envoy::config::core::v3::Node;
use xds_api::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, Resource,
};

use crate::protocol::{Event, Protocol, Request, Response, Settings, Update, UpdateId, Variant, Verdict};
use crate::resource::{TypeUrl, WILDCARD};

const TYPES: [TypeUrl; 3] =
    [TypeUrl::CLUSTER, TypeUrl::CLUSTER_LOAD_ASSIGNMENT, TypeUrl::ROUTE_CONFIGURATION];
/// Names of resources; the number after them is the wildcard.
const NAMES: u8 = 4;

#[derive(Clone, Copy, Debug)]
enum Step {
    Subscribe(usize, u8),
    Unsubscribe(usize, u8),
    SetInterest(usize, u8),
    Pause(usize),
    Resume(usize),
    /// A response with these resources and removals (bits set).
    Respond(usize, u8, u8, Manner),
    /// The verdict on one of the open updates.
    Judge(u8, Opinion),
    Send,
    Disconnect,
    Connect,
    Pass(u8),
}

/// What is odd about a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    Plain,
    /// One of its resources cannot be read.
    Unreadable,
    /// A resource of another type is among them.
    WrongType,
    /// A name occurs twice.
    Duplicate,
    /// Resources live for a while only.
    Mortal,
    /// It is of a type nobody asked for.
    UnknownType,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Opinion {
    Accept,
    RejectAll,
    /// The first resource only.
    RejectOne,
}

impl Step {
    fn read([kind, a, b, c]: [u8; 4]) -> Self {
        let t = usize::from(a) % TYPES.len();
        let n = b % (NAMES + 1);
        match kind % 32 {
            0..3 => Self::Subscribe(t, n),
            3..5 => Self::Unsubscribe(t, n),
            5 => Self::SetInterest(t, b),
            6 => Self::Pause(t),
            7..9 => Self::Resume(t),
            9..15 => Self::Respond(t, b & 15, b >> 4, Manner::read(c)),
            15..21 => Self::Judge(a, Opinion::read(b)),
            21..28 => Self::Send,
            28 => Self::Disconnect,
            29..31 => Self::Connect,
            _ => Self::Pass(b),
        }
    }
}

impl Manner {
    fn read(byte: u8) -> Self {
        match byte % 16 {
            0 => Self::Unreadable,
            1 => Self::WrongType,
            2 => Self::Duplicate,
            3 => Self::UnknownType,
            4..7 => Self::Mortal,
            _ => Self::Plain,
        }
    }

    /// Nothing of such a response can be used.
    fn is_refused(self) -> bool {
        matches!(self, Self::Unreadable | Self::WrongType)
    }
}

impl Opinion {
    fn read(byte: u8) -> Self {
        match byte % 4 {
            0 => Self::RejectAll,
            1 => Self::RejectOne,
            _ => Self::Accept,
        }
    }
}

fn name(number: u8) -> String {
    if number == NAMES { WILDCARD.to_owned() } else { format!("r{number}") }
}

/// The bytes of a schedule.
pub fn from_seed(seed: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    let steps = random.usize(1..160);
    std::iter::repeat_with(|| random.u8(..)).take(1 + 4 * steps).collect()
}

/// Runs a schedule: the first byte chooses the protocol, then each step is four.
///
/// # Panics
/// A promise was broken.
pub fn run(schedule: &[u8]) {
    let Some((first, steps)) = schedule.split_first() else { return };
    let mut world = World::new(if first % 2 == 0 { Variant::StateOfTheWorld } else { Variant::Delta });
    for step in steps.as_chunks::<4>().0 {
        world.step(Step::read(*step));
    }
    world.settle();
}

/// A server's view of one type on the present stream.
#[derive(Default)]
struct View {
    requests: usize,
    names: BTreeSet<String>,
    wildcard: bool,
    /// Nonces sent and not answered yet, with the version they carried.
    open: BTreeMap<String, String>,
}

/// What the receiver has in force of one type: version, and the update that brought it, by name; a removal has no version.
type InForce = BTreeMap<String, (UpdateId, Option<String>)>;

struct World {
    protocol: Protocol,
    now: Instant,
    variant: Variant,
    connected: bool,
    views: [View; 3],
    wanted: [BTreeSet<String>; 3],
    paused: [u32; 3],
    in_force: [InForce; 3],
    updates: Vec<Update>,
    rejected_versions: BTreeSet<String>,
    counter: u64,
}

impl World {
    fn new(variant: Variant) -> Self {
        let now = Instant::now();
        let settings = Settings { seed: 1, ..Settings::new(variant, Node::default()) };
        Self {
            protocol: Protocol::new(settings, Arc::new(()), now),
            now,
            variant,
            connected: false,
            views: Default::default(),
            wanted: Default::default(),
            paused: [0; 3],
            in_force: Default::default(),
            updates: Vec::new(),
            rejected_versions: BTreeSet::new(),
            counter: 0,
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Subscribe(t, n) => {
                self.protocol.subscribe(self.now, &TYPES[t], &[name(n)], Duration::ZERO);
                self.wanted[t].insert(name(n));
            }
            Step::Unsubscribe(t, n) => {
                self.protocol.unsubscribe(&TYPES[t], &[name(n)]);
                self.wanted[t].remove(&name(n));
                self.forget_unwanted(t);
            }
            Step::SetInterest(t, bits) => {
                let names: Vec<String> = (0..=NAMES).filter(|n| bits & (1 << n) != 0).map(name).collect();
                self.protocol.set_interest(self.now, &TYPES[t], &names, Duration::ZERO);
                self.wanted[t] = names.into_iter().collect();
                self.forget_unwanted(t);
            }
            Step::Pause(t) => {
                self.protocol.pause(&TYPES[t]);
                self.paused[t] += 1;
            }
            Step::Resume(t) => {
                self.protocol.resume(&TYPES[t]);
                self.paused[t] = self.paused[t].saturating_sub(1);
            }
            Step::Respond(t, resources, removed, manner) => self.respond(t, resources, removed, manner),
            Step::Judge(index, opinion) if !self.updates.is_empty() => {
                self.judge(usize::from(index) % self.updates.len(), opinion);
            }
            Step::Send => self.send(),
            Step::Disconnect if self.connected => {
                self.protocol.closed(self.now, "gone");
                self.connected = false;
                self.views = Default::default();
            }
            Step::Connect if !self.connected => {
                self.now += Duration::from_secs(60);
                assert!(self.protocol.wants_stream(self.now));
                self.protocol.opening();
                self.protocol.opened();
                self.connected = true;
            }
            Step::Pass(seconds) => {
                self.now += Duration::from_secs(u64::from(seconds));
                self.protocol.timeout(self.now);
            }
            Step::Disconnect | Step::Connect | Step::Judge(..) => {}
        }
        self.take_events();
    }

    fn wants(&self, t: usize, name: &str) -> bool {
        self.wanted[t].contains(name) || self.wanted[t].contains(WILDCARD)
    }

    /// Resources of names that are not wanted any more are forgotten without a word, those of open updates as well.
    fn forget_unwanted(&mut self, t: usize) {
        let mut in_force = std::mem::take(&mut self.in_force[t]);
        in_force.retain(|name, _| self.wants(t, name));
        self.in_force[t] = in_force;
        let mut updates = std::mem::take(&mut self.updates);
        for update in updates.iter_mut().filter(|update| update.type_url == TYPES[t]) {
            update.upserts.retain(|one| self.wants(t, &one.name));
            update.removed.retain(|name| self.wants(t, name));
        }
        self.updates = updates;
    }

    fn respond(&mut self, t: usize, resources: u8, removed: u8, manner: Manner) {
        // A server speaks of a type once it was asked.
        if !self.connected || self.views[t].requests == 0 {
            return;
        }
        self.counter += 1;
        let (version, nonce) = (format!("v{}", self.counter), format!("n{}", self.counter));
        let type_url =
            if manner == Manner::UnknownType { "type.googleapis.com/unknown" } else { TYPES[t].as_str() };
        let contradicts = self.variant == Variant::Delta && resources & removed != 0;
        let chosen = |bits: u8| (0..NAMES).filter(move |bit| bits & (1 << bit) != 0).map(name);
        let mut resources: Vec<Resource> =
            chosen(resources).map(|name| self.resource(t, &name, &version, manner)).collect();
        match manner {
            Manner::Unreadable => {
                resources.push(Resource { resource: Some(Any::default()), ..Resource::default() })
            }
            Manner::WrongType => {
                let resource = Some(any(&TypeUrl::LISTENER, "r0"));
                resources.push(Resource { name: "r0".to_owned(), resource, ..Resource::default() });
            }
            Manner::Duplicate => resources.extend(resources.first().cloned()),
            Manner::Plain | Manner::Mortal | Manner::UnknownType => {}
        }
        // Of types that do not list everything the last of a name wins on a state-of-the-world stream.
        let may_repeat = self.variant == Variant::StateOfTheWorld && !TYPES[t].lists_everything();
        let is_duplicate = manner == Manner::Duplicate && resources.len() > 1 && !may_repeat;
        let removed: Vec<String> = chosen(removed).collect();
        let response = self.response(type_url, &version, &nonce, resources, removed);
        self.protocol.response(self.now, response).unwrap();
        if manner == Manner::UnknownType {
            return;
        }
        // Both protocols answer duplicates with a rejection: the one of the resource, the other of the response.
        if manner.is_refused() || is_duplicate || contradicts {
            self.rejected_versions.insert(version.clone());
        }
        self.views[t].open.insert(nonce, version);
    }

    fn resource(&self, t: usize, name: &str, version: &str, manner: Manner) -> Resource {
        let seconds = i64::try_from(self.counter % 50).unwrap();
        Resource {
            name: name.to_owned(),
            version: version.to_owned(),
            resource: Some(any(&TYPES[t], name)),
            ttl: (manner == Manner::Mortal).then_some(prost_types::Duration { seconds, nanos: 1 }),
            ..Resource::default()
        }
    }

    fn response(
        &self,
        type_url: &str,
        version: &str,
        nonce: &str,
        resources: Vec<Resource>,
        removed_resources: Vec<String>,
    ) -> Response {
        let wrap = |resource: Resource| match resource.ttl {
            None => resource.resource.unwrap_or_default(),
            Some(_) => Any {
                type_url: "type.googleapis.com/envoy.service.discovery.v3.Resource".to_owned(),
                value: resource.encode_to_vec(),
            },
        };
        match self.variant {
            Variant::StateOfTheWorld => Response::StateOfTheWorld(Box::new(DiscoveryResponse {
                version_info: version.to_owned(),
                nonce: nonce.to_owned(),
                type_url: type_url.to_owned(),
                resources: resources.into_iter().map(wrap).collect(),
                ..DiscoveryResponse::default()
            })),
            Variant::Delta => Response::Delta(Box::new(DeltaDiscoveryResponse {
                system_version_info: version.to_owned(),
                nonce: nonce.to_owned(),
                type_url: type_url.to_owned(),
                resources,
                removed_resources,
                ..DeltaDiscoveryResponse::default()
            })),
        }
    }

    fn take_events(&mut self) {
        while let Some(event) = self.protocol.poll_event() {
            let Event::Update(update) = event else { continue };
            let t = TYPES.iter().position(|type_url| *type_url == update.type_url).unwrap();
            for upsert in &update.upserts {
                assert!(self.wants(t, &upsert.name), "{} was not asked for", upsert.name);
                assert!(!update.removed.contains(&upsert.name), "{} is new and gone", upsert.name);
            }
            if update.nonce.is_empty() {
                // A time to live ended: there is nothing to answer.
                self.apply(t, &update, Opinion::Accept);
            } else {
                self.updates.push(update);
            }
        }
    }

    /// Does what the receiver does with an update, in the order of the updates.
    fn apply(&mut self, t: usize, update: &Update, opinion: Opinion) {
        if opinion == Opinion::RejectAll {
            return;
        }
        let skipped = usize::from(opinion == Opinion::RejectOne);
        let kept = update.upserts.iter().skip(skipped).map(|one| (&one.name, Some(one.version.clone())));
        let changes = kept.chain(update.removed.iter().map(|name| (name, None)));
        for (name, version) in changes.collect::<Vec<_>>() {
            let newer = self.in_force[t].get(name).is_none_or(|(id, _)| *id < update.id);
            if newer && self.wants(t, name) {
                self.in_force[t].insert(name.clone(), (update.id, version));
            }
        }
    }

    fn judge(&mut self, index: usize, opinion: Opinion) {
        let update = self.updates.remove(index);
        let rejected = match (opinion, update.upserts.first()) {
            (Opinion::Accept, _) => Vec::new(),
            (Opinion::RejectOne, Some(first)) => vec![(first.name.clone(), "no".to_owned())],
            (Opinion::RejectAll, _) | (Opinion::RejectOne, None) => vec![(String::new(), "no".to_owned())],
        };
        let opinion =
            if rejected.iter().any(|(name, _)| name.is_empty()) { Opinion::RejectAll } else { opinion };
        if !rejected.is_empty() {
            self.rejected_versions.insert(update.version.clone());
        }
        let t = TYPES.iter().position(|type_url| *type_url == update.type_url).unwrap();
        self.apply(t, &update, opinion);
        self.protocol.verdict(Verdict::reject(&update, rejected));
    }

    fn send(&mut self) {
        let Some(request) = self.protocol.poll_request(self.now) else { return };
        match request {
            Request::StateOfTheWorld(request) => self.sent_state_of_world(&request),
            Request::Delta(request) => self.sent_delta(&request),
        }
    }

    fn sent_state_of_world(&mut self, request: &DiscoveryRequest) {
        let t = TYPES.iter().position(|type_url| *type_url == *request.type_url.as_str()).unwrap();
        assert_eq!(self.paused[t], 0, "a paused type was sent");
        let view = &mut self.views[t];
        view.requests += 1;
        let error = request.error_detail.as_ref();
        assert!(
            !self.rejected_versions.contains(&request.version_info),
            "version {} has rejected resources",
            request.version_info
        );
        if let Some(version) = view.open.remove(&request.response_nonce) {
            assert_eq!(error.is_some(), self.rejected_versions.contains(&version), "{version}");
            if error.is_none() {
                assert_eq!(request.version_info, version);
            }
        } else {
            assert!(error.is_none(), "a rejection of nothing");
            assert!(view.requests > 1 || request.response_nonce.is_empty(), "a nonce of another stream");
        }
        let names: BTreeSet<String> = request.resource_names.iter().cloned().collect();
        view.wildcard = names.contains(WILDCARD) || (names.is_empty() && view.names.is_empty());
        if !(names.is_empty() && view.wildcard) {
            view.names = names;
        }
    }

    fn sent_delta(&mut self, request: &DeltaDiscoveryRequest) {
        let t = TYPES.iter().position(|type_url| *type_url == *request.type_url.as_str()).unwrap();
        assert_eq!(self.paused[t], 0, "a paused type was sent");
        for (name, version) in &request.initial_resource_versions {
            assert_eq!(self.views[t].requests, 0, "versions are told first");
            let in_force = self.in_force[t].get(name).and_then(|(_, version)| version.as_ref());
            assert_eq!(in_force, Some(version), "{name} is not in force");
        }
        let view = &mut self.views[t];
        view.requests += 1;
        if !request.response_nonce.is_empty() {
            let version = view.open.remove(&request.response_nonce);
            let version = version.expect("answered twice, or on another stream");
            assert_eq!(
                request.error_detail.is_some(),
                self.rejected_versions.contains(&version),
                "{version}"
            );
        }
        if view.requests == 1 && request.resource_names_subscribe.is_empty() {
            view.names.insert(WILDCARD.to_owned());
        }
        view.names.extend(request.resource_names_subscribe.iter().cloned());
        for name in &request.resource_names_unsubscribe {
            assert!(view.names.remove(name), "{name} was never subscribed");
        }
        view.wildcard = view.names.contains(WILDCARD);
    }

    /// Ends every pause, gives every verdict, sends everything: now nothing may be open.
    fn settle(&mut self) {
        self.step(Step::Connect);
        for t in 0..TYPES.len() {
            while self.paused[t] > 0 {
                self.step(Step::Resume(t));
            }
        }
        while !self.updates.is_empty() {
            self.judge(0, Opinion::Accept);
        }
        for _ in 0..1000 {
            self.send();
        }
        assert_eq!(self.protocol.poll_request(self.now), None);
        for (view, wanted) in self.views.iter().zip(&self.wanted) {
            assert!(view.open.is_empty(), "unanswered: {:?}", view.open);
            if wanted.is_empty() {
                // The legacy wildcard of a state-of-the-world stream cannot be taken back.
                assert!(view.names.is_empty(), "{:?}", view.names);
                continue;
            }
            let explicit = |names: &BTreeSet<String>| -> BTreeSet<String> {
                names.iter().filter(|name| *name != WILDCARD).cloned().collect()
            };
            assert_eq!(view.wildcard, wanted.contains(WILDCARD), "{wanted:?}");
            assert_eq!(explicit(&view.names), explicit(wanted));
        }
        self.full_states_agree();
    }

    /// A last full state of each type that lists everything leaves exactly what it holds in force.
    fn full_states_agree(&mut self) {
        for bits in [0b0101, 0b0011, 0] {
            self.step(Step::Respond(0, bits, !bits & 15, Manner::Plain));
            while !self.updates.is_empty() {
                self.judge(0, Opinion::Accept);
            }
            if self.views[0].requests == 0 {
                continue;
            }
            let wanted = |n: &u8| bits & (1 << n) != 0 && self.wants(0, &name(*n));
            let expected: Vec<String> = (0..NAMES).filter(wanted).map(name).collect();
            let in_force = self.in_force[0].iter().filter(|(_, (_, version))| version.is_some());
            assert_eq!(in_force.map(|(name, _)| name.clone()).collect::<Vec<_>>(), expected);
        }
    }
}

/// A resource of any type: all of them keep their name in field 1.
fn any(type_url: &TypeUrl, name: &str) -> Any {
    let value = Cluster { name: name.to_owned(), ..Cluster::default() }.encode_to_vec();
    Any { type_url: type_url.as_str().to_owned(), value }
}

#[cfg(test)]
mod tests {
    #[test]
    fn simulation_keeps_the_promises() {
        simulate::each_seed(4000, |seed| super::run(&super::from_seed(seed)));
    }
}
