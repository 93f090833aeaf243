//! Random schedules of responses, disconnects, interest and verdicts, against what has to hold in all of them.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Subscribe(usize, u8),
    Unsubscribe(usize, u8),
    Pause(usize),
    Resume(usize),
    /// A response with these resources (bit set), and whether it can be read.
    Respond(usize, u8, bool),
    /// The verdict on one of the open updates, rejecting it or not.
    Judge(prop::sample::Index, bool),
    Send,
    Disconnect,
    Connect,
}

fn step() -> impl Strategy<Value = Step> {
    let kind = 0_usize..3;
    prop_oneof![
        3 => (kind.clone(), 0_u8..5).prop_map(|(t, n)| Step::Subscribe(t, n)),
        2 => (kind.clone(), 0_u8..5).prop_map(|(t, n)| Step::Unsubscribe(t, n)),
        1 => kind.clone().prop_map(Step::Pause),
        2 => kind.clone().prop_map(Step::Resume),
        5 => (kind, proptest::arbitrary::any::<u8>(), prop::bool::weighted(0.9)).prop_map(|(t, r, g)| Step::Respond(t, r, g)),
        5 => (proptest::arbitrary::any::<prop::sample::Index>(), proptest::arbitrary::any::<bool>()).prop_map(|(i, r)| Step::Judge(i, r)),
        6 => Just(Step::Send),
        1 => Just(Step::Disconnect),
        2 => Just(Step::Connect),
    ]
}

const TYPES: [TypeUrl; 3] = [CDS, EDS, RDS];

fn name(number: u8) -> String {
    if number == 4 { WILDCARD.to_owned() } else { format!("r{number}") }
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

struct World {
    rig: Rig,
    variant: Variant,
    connected: bool,
    views: [View; 3],
    wanted: [BTreeSet<String>; 3],
    paused: [u32; 3],
    /// Types that were ever subscribed: responses of others are ignored.
    known: [bool; 3],
    updates: Vec<Update>,
    rejected_versions: BTreeSet<String>,
    counter: u64,
}

impl World {
    fn new(variant: Variant) -> Self {
        Self {
            rig: Rig::new(variant),
            variant,
            connected: false,
            views: Default::default(),
            wanted: Default::default(),
            paused: [0; 3],
            known: [false; 3],
            updates: Vec::new(),
            rejected_versions: BTreeSet::new(),
            counter: 0,
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Subscribe(t, n) => {
                self.rig.subscribe(&TYPES[t], &[&name(n)]);
                self.wanted[t].insert(name(n));
                self.known[t] = true;
            }
            Step::Unsubscribe(t, n) => {
                self.rig.unsubscribe(&TYPES[t], &[&name(n)]);
                self.wanted[t].remove(&name(n));
            }
            Step::Pause(t) => {
                self.rig.protocol.pause(&TYPES[t]);
                self.paused[t] += 1;
                self.known[t] = true;
            }
            Step::Resume(t) => {
                self.rig.protocol.resume(&TYPES[t]);
                self.paused[t] = self.paused[t].saturating_sub(1);
            }
            Step::Respond(t, resources, good) => self.respond(t, resources, good),
            Step::Judge(index, reject) if !self.updates.is_empty() => {
                self.judge(index.index(self.updates.len()), reject);
            }
            Step::Send => self.send(),
            Step::Disconnect if self.connected => {
                self.rig.protocol.closed(self.rig.now, "gone");
                self.connected = false;
                self.views = Default::default();
            }
            Step::Connect if !self.connected => {
                self.rig.now += Duration::from_secs(60);
                assert!(self.rig.protocol.wants_stream(self.rig.now));
                self.rig.protocol.opening();
                self.rig.protocol.opened();
                self.connected = true;
            }
            Step::Disconnect | Step::Connect | Step::Judge(..) => {}
        }
        self.take_events();
    }

    fn respond(&mut self, t: usize, resources: u8, good: bool) {
        // A server speaks of a type once it was asked.
        if !self.connected || self.views[t].requests == 0 {
            return;
        }
        self.counter += 1;
        let (version, nonce) = (format!("v{}", self.counter), format!("n{}", self.counter));
        let chosen = (0..4).filter(|bit| resources & (1 << bit) != 0).map(name);
        let embedded = if good { &TYPES[t] } else { &LDS };
        if !good {
            self.rejected_versions.insert(version.clone());
        }
        let type_url = TYPES[t].as_str().to_owned();
        let response = match self.variant {
            Variant::StateOfTheWorld => Response::StateOfTheWorld(Box::new(DiscoveryResponse {
                version_info: version.clone(),
                nonce: nonce.clone(),
                type_url,
                resources: chosen
                    .map(|name| super::any(embedded, &name))
                    .chain((!good).then(Any::default))
                    .collect(),
                ..DiscoveryResponse::default()
            })),
            Variant::Delta => Response::Delta(Box::new(DeltaDiscoveryResponse {
                system_version_info: version.clone(),
                nonce: nonce.clone(),
                type_url,
                resources: chosen
                    .map(|name| Resource {
                        resource: Some(super::any(embedded, &name)),
                        name,
                        version: version.clone(),
                        ..Resource::default()
                    })
                    .chain(
                        (!good).then(|| Resource { resource: Some(Any::default()), ..Resource::default() }),
                    )
                    .collect(),
                ..DeltaDiscoveryResponse::default()
            })),
        };
        self.rig.protocol.response(self.rig.now, response).unwrap();
        self.views[t].open.insert(nonce, version);
    }

    fn take_events(&mut self) {
        while let Some(event) = self.rig.protocol.poll_event() {
            if let Event::Update(update) = event {
                let t = TYPES.iter().position(|type_url| *type_url == update.type_url).unwrap();
                for upsert in &update.upserts {
                    let wanted = self.wanted[t].contains(&upsert.name) || self.wanted[t].contains(WILDCARD);
                    assert!(wanted, "{} was not asked for", upsert.name);
                }
                self.updates.push(update);
            }
        }
    }

    fn judge(&mut self, index: usize, reject: bool) {
        let update = self.updates.remove(index);
        let rejected = if reject { vec![(String::new(), "no".to_owned())] } else { Vec::new() };
        if reject {
            self.rejected_versions.insert(update.version.clone());
        }
        self.rig.protocol.verdict(Verdict::reject(&update, rejected));
    }

    fn send(&mut self) {
        let Some(request) = self.rig.request() else { return };
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
            assert!(error.is_some() == self.rejected_versions.contains(&version));
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
        let view = &mut self.views[t];
        view.requests += 1;
        for (name, version) in &request.initial_resource_versions {
            assert!(view.requests == 1, "versions are told first");
            assert!(!self.rejected_versions.contains(version), "{name} of {version} was rejected");
        }
        if !request.response_nonce.is_empty() {
            let version =
                view.open.remove(&request.response_nonce).expect("answered twice, or on another stream");
            assert_eq!(request.error_detail.is_some(), self.rejected_versions.contains(&version));
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
        for t in 0..3 {
            while self.paused[t] > 0 {
                self.step(Step::Resume(t));
            }
        }
        while !self.updates.is_empty() {
            self.judge(0, false);
        }
        for _ in 0..1000 {
            self.send();
        }
        assert_eq!(self.rig.request(), None);
        for t in 0..3 {
            let view = &self.views[t];
            assert!(view.open.is_empty(), "unanswered: {:?}", view.open);
            let wanted = &self.wanted[t];
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
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

    #[test]
    fn any_schedule_keeps_the_promises(
        delta: bool,
        steps in prop::collection::vec(step(), 1..120),
    ) {
        let mut world = World::new(if delta { Variant::Delta } else { Variant::StateOfTheWorld });
        for step in steps {
            world.step(step);
        }
        world.settle();
    }
}
