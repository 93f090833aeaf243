//! The traces a management server sees, message by message.

use prost::Message;
use xds_api::envoy::config::cluster::v3::Cluster;
use xds_api::envoy::service::discovery::v3::Resource;

use super::*;
use crate::resource::WILDCARD;

mod delta;
mod state_of_world;

const CDS: TypeUrl = TypeUrl::CLUSTER;
const EDS: TypeUrl = TypeUrl::CLUSTER_LOAD_ASSIGNMENT;
const LDS: TypeUrl = TypeUrl::LISTENER;
const RDS: TypeUrl = TypeUrl::ROUTE_CONFIGURATION;

const NO_TIMEOUT: Duration = Duration::ZERO;

/// A resource of any type: all of them keep their name in field 1.
fn any(type_url: &TypeUrl, name: &str) -> Any {
    let value = Cluster { name: name.to_owned(), ..Cluster::default() }.encode_to_vec();
    Any { type_url: type_url.as_str().to_owned(), value }
}

fn wrap(resource: &Resource) -> Any {
    Any {
        type_url: "type.googleapis.com/envoy.service.discovery.v3.Resource".to_owned(),
        value: resource.encode_to_vec(),
    }
}

fn strings(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn ttl(seconds: i64) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds, nanos: 0 })
}

/// A protocol whose clock is turned by hand.
struct Rig {
    protocol: Protocol,
    now: Instant,
}

impl Rig {
    fn new(variant: Variant) -> Self {
        Self::with(Settings { seed: 1, ..Settings::new(variant, node()) })
    }

    fn with(settings: Settings) -> Self {
        let now = Instant::now();
        Self { protocol: Protocol::new(settings, Arc::new(()), now), now }
    }

    fn open(&mut self) {
        self.now += Duration::from_secs(60);
        assert!(self.protocol.wants_stream(self.now));
        self.protocol.opening();
        assert!(!self.protocol.wants_stream(self.now));
        self.protocol.opened();
        assert_eq!(self.protocol.poll_event(), Some(Event::Connected));
    }

    fn close(&mut self) {
        self.protocol.closed(self.now, "gone");
        assert_eq!(self.protocol.poll_event(), Some(Event::Disconnected { reason: "gone".into() }));
    }

    fn subscribe(&mut self, type_url: &TypeUrl, names: &[&str]) {
        self.protocol.subscribe(self.now, type_url, &strings(names), NO_TIMEOUT);
    }

    fn unsubscribe(&mut self, type_url: &TypeUrl, names: &[&str]) {
        self.protocol.unsubscribe(type_url, &strings(names));
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.protocol.timeout(self.now);
    }

    /// The next event, which has to be an update.
    fn update(&mut self) -> Update {
        match self.protocol.poll_event() {
            Some(Event::Update(update)) => update,
            other => panic!("no update but {other:?}"),
        }
    }

    fn accept(&mut self) -> Update {
        let update = self.update();
        self.protocol.verdict(Verdict::accept(&update));
        update
    }

    fn no_event(&mut self) {
        assert_eq!(self.protocol.poll_event(), None);
    }

    fn request(&mut self) -> Option<Request> {
        self.protocol.poll_request(self.now)
    }
}

fn node() -> Node {
    Node { id: "test-id".into(), ..Node::default() }
}

fn upserts(update: &Update) -> Vec<&str> {
    update.upserts.iter().map(|upsert| upsert.name.as_str()).collect()
}
