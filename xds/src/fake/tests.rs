//! The client against the server, over real sockets.

use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use prost::Message;
use tokio::time::timeout;
use xds_api::envoy::config::cluster::v3::Cluster;

use super::*;
use crate::client::grpc::{GrpcConfig, client};
use crate::client::{Client, Command, Events};
use crate::protocol::{BackoffConfig, Event, Observer, Settings, Update, Variant, Verdict};
use crate::resource::WILDCARD;

const CDS: TypeUrl = TypeUrl::CLUSTER;
const EDS: TypeUrl = TypeUrl::CLUSTER_LOAD_ASSIGNMENT;
const PATIENCE: Duration = Duration::from_secs(30);
const BOTH: [Variant; 2] = [Variant::StateOfTheWorld, Variant::Delta];

/// A resource of any type: all of them keep their name in field 1. The second argument makes its content.
fn served(type_url: &TypeUrl, name: &str, content: &str) -> Served {
    let message = Cluster { name: name.into(), alt_stat_name: content.into(), ..Cluster::default() };
    Served::new(Any { type_url: type_url.as_str().into(), value: message.encode_to_vec() })
}

#[derive(Default)]
struct Counts {
    connects: AtomicUsize,
    success: AtomicUsize,
    failure: AtomicUsize,
    rejected: AtomicUsize,
}

impl Observer for Counts {
    fn connected_state(&self, connected: bool) {
        self.connects.fetch_add(usize::from(connected), Ordering::Relaxed);
    }
    fn update_success(&self, _: &TypeUrl, _: &str) {
        self.success.fetch_add(1, Ordering::Relaxed);
    }
    fn update_failure(&self, _: &TypeUrl) {
        self.failure.fetch_add(1, Ordering::Relaxed);
    }
    fn update_rejected(&self, _: &TypeUrl, _: &str) {
        self.rejected.fetch_add(1, Ordering::Relaxed);
    }
}

struct Rig {
    server: Arc<ManagementServer>,
    client: Client,
    events: Events,
    counts: Arc<Counts>,
    _driver: tokio::task::JoinHandle<()>,
}

fn settings(variant: Variant) -> Settings {
    let node = Node { id: "test-id".into(), ..Node::default() };
    let backoff = BackoffConfig { base: Duration::from_millis(1), max: Duration::from_millis(10) };
    Settings { set_node_on_first_message_only: true, backoff, ..Settings::new(variant, node) }
}

impl Rig {
    async fn new(variant: Variant) -> Self {
        Self::with(variant, GrpcConfig::new("xds_cluster"), Service::Aggregated).await
    }

    async fn with(variant: Variant, config: GrpcConfig, service: Service) -> Self {
        let server = Arc::new(ManagementServer::start().await.unwrap());
        let counts = Arc::new(Counts::default());
        let (client, events, driver) =
            client(settings(variant), config, &service, server.clone(), counts.clone()).unwrap();
        Self { server, client, events, counts, _driver: tokio::spawn(driver.run()) }
    }

    fn subscribe(&self, type_url: &TypeUrl, name: &str) {
        self.client.subscribe(type_url, vec![name.to_owned()], Duration::ZERO);
    }

    async fn event(&mut self) -> Event {
        timeout(PATIENCE, self.events.next()).await.expect("an event").expect("a living driver")
    }

    /// The next update, unanswered.
    async fn update(&mut self) -> Update {
        loop {
            if let Event::Update(update) = self.event().await {
                return update;
            }
        }
    }

    /// Accepts updates until one of them brings this content for the name.
    async fn accept_until(&mut self, name: &str, content: &str) -> Update {
        loop {
            let update = self.update().await;
            self.client.verdict(Verdict::accept(&update));
            let expected = served(&update.type_url, name, content).any;
            if update.upserts.iter().any(|upsert| upsert.name == name && upsert.any == expected) {
                return update;
            }
        }
    }

    async fn disconnected(&mut self) -> String {
        loop {
            if let Event::Disconnected { reason } = self.event().await {
                return reason;
            }
        }
    }

    /// Waits for a request of which this holds.
    async fn heard(&self, holds: impl Fn(&Recorded) -> bool) -> Recorded {
        let found = self.server.wait(|all| all.iter().find(|recorded| holds(recorded)).cloned());
        timeout(PATIENCE, found).await.expect("a request")
    }
}

#[tokio::test]
async fn endpoints_are_asked_for_before_clusters_are_acknowledged() {
    for variant in BOTH {
        let mut rig = Rig::new(variant).await;
        rig.server.set(&CDS, "v1", [served(&CDS, "a", "1"), served(&CDS, "b", "1")]);
        rig.server.set(&EDS, "v1", [served(&EDS, "a", "1"), served(&EDS, "b", "1")]);
        rig.server.wait_for_all_names(&EDS);
        rig.subscribe(&CDS, WILDCARD);
        let clusters = rig.update().await;
        assert_eq!(clusters.upserts.len(), 2);
        let names = ["a", "b"].map(|name| Command::Subscribe {
            type_url: EDS,
            names: vec![name.to_owned()],
            timeout: Duration::ZERO,
        });
        let mut commands = vec![Command::Pause(CDS), Command::Pause(EDS)];
        commands.extend(names);
        commands.extend([Command::Resume(EDS), Command::Verdict(Verdict::accept(&clusters))]);
        rig.client.apply(commands);
        let endpoints = rig.update().await;
        assert_eq!((endpoints.type_url.clone(), endpoints.upserts.len()), (EDS, 2));
        rig.client.apply(vec![Command::Verdict(Verdict::accept(&endpoints)), Command::Resume(CDS)]);
        rig.heard(|recorded| recorded.type_url() == CDS && recorded.is_ack()).await;
        let order: Vec<_> = rig.server.recorded().into_iter().map(|r| (r.type_url(), r.is_ack())).collect();
        assert_eq!(order, [(CDS, false), (EDS, false), (EDS, true), (CDS, true)], "{variant:?}");
        let nodes: Vec<_> = rig.server.recorded().iter().map(|r| r.node().is_some()).collect();
        assert_eq!(nodes, [true, false, false, false]);
    }
}

#[tokio::test]
async fn updates_and_removals_arrive() {
    for variant in BOTH {
        let mut rig = Rig::new(variant).await;
        rig.server.set(&CDS, "v1", [served(&CDS, "a", "1"), served(&CDS, "b", "1")]);
        rig.subscribe(&CDS, WILDCARD);
        rig.accept_until("a", "1").await;
        rig.server.set(&CDS, "v2", [served(&CDS, "b", "2")]);
        let update = rig.accept_until("b", "2").await;
        assert_eq!(update.removed, ["a"], "{variant:?}");
        assert_eq!(update.version, "v2");
        rig.heard(|recorded| recorded.nonce() == update.nonce).await;
        assert_eq!(rig.counts.success.load(Ordering::Relaxed), 2);
    }
}

#[tokio::test]
async fn a_rejection_reaches_the_server_and_the_next_version_heals() {
    for variant in BOTH {
        let mut rig = Rig::new(variant).await;
        rig.server.set(&CDS, "v1", [served(&CDS, "a", "1")]);
        rig.subscribe(&CDS, WILDCARD);
        rig.accept_until("a", "1").await;
        rig.server.set(&CDS, "v2", [served(&CDS, "a", "bad")]);
        let update = rig.update().await;
        rig.client.verdict(Verdict::reject(&update, vec![("a".into(), "field x: no".into())]));
        let nack = timeout(PATIENCE, rig.server.rejected(&CDS)).await.unwrap();
        let error = nack.error().unwrap();
        assert_eq!(
            (error.code, error.message.as_str()),
            (13, "Error adding/updating cluster(s) a: field x: no")
        );
        if variant == Variant::StateOfTheWorld {
            assert_eq!(nack.version(), "v1");
        }
        rig.server.set(&CDS, "v3", [served(&CDS, "a", "3")]);
        rig.accept_until("a", "3").await;
        assert_eq!(rig.counts.rejected.load(Ordering::Relaxed), 1);
    }
}

#[tokio::test]
async fn single_services_serve_their_type() {
    let types = [
        TypeUrl::LISTENER,
        TypeUrl::ROUTE_CONFIGURATION,
        TypeUrl::SCOPED_ROUTE_CONFIGURATION,
        TypeUrl::CLUSTER,
        TypeUrl::CLUSTER_LOAD_ASSIGNMENT,
        TypeUrl::SECRET,
        TypeUrl::RUNTIME,
        TypeUrl::TYPED_EXTENSION_CONFIG,
    ];
    for type_url in types {
        for variant in BOTH {
            let config = GrpcConfig::new("outbound|80||xds");
            let mut rig = Rig::with(variant, config, Service::Single(type_url.clone())).await;
            rig.server.set(&type_url, "v1", [served(&type_url, "n", "1"), served(&type_url, "other", "1")]);
            rig.subscribe(&type_url, "n");
            assert_eq!(rig.accept_until("n", "1").await.upserts.len(), 1, "{type_url}");
            let request = rig.heard(Recorded::is_ack).await;
            assert_eq!(request.service, Service::Single(type_url.clone()));
        }
    }
}

#[tokio::test]
async fn a_new_stream_continues_where_the_old_one_ended() {
    for variant in BOTH {
        let mut rig = Rig::new(variant).await;
        rig.server.set(&CDS, "v1", [served(&CDS, "a", "1")]);
        rig.server.set(&EDS, "v1", [served(&EDS, "a", "1")]);
        rig.subscribe(&CDS, WILDCARD);
        rig.accept_until("a", "1").await;
        rig.subscribe(&EDS, "a");
        rig.accept_until("a", "1").await;
        rig.heard(|recorded| recorded.type_url() == EDS && recorded.is_ack()).await;
        rig.server.close_streams();
        assert!(rig.disconnected().await.contains("Unavailable"));
        let clusters = rig.heard(|recorded| recorded.stream == 2 && recorded.type_url() == CDS).await;
        let endpoints = rig.heard(|recorded| recorded.stream == 2 && recorded.type_url() == EDS).await;
        assert_eq!((clusters.nonce(), endpoints.nonce()), ("", ""));
        assert_eq!((clusters.names(), endpoints.names()), (&[][..], &["a".to_owned()][..]));
        assert!(clusters.node().is_some());
        match &clusters.request {
            Request::StateOfTheWorld(request) => assert_eq!(request.version_info, "v1"),
            Request::Delta(request) => {
                let held: Vec<_> = request.initial_resource_versions.keys().collect();
                assert_eq!(held, ["a"]);
            }
        }
        rig.server.set(&EDS, "v2", [served(&EDS, "a", "2")]);
        rig.accept_until("a", "2").await;
        assert!(rig.counts.failure.load(Ordering::Relaxed) >= 2);
    }
}

#[tokio::test]
async fn whatever_goes_wrong_the_next_version_arrives() {
    let faults = [
        Fault::Nonce(String::new()),
        Fault::Nonce("1".into()),
        Fault::TypeUrl("type.googleapis.com/x.Unknown".into()),
        Fault::TypeUrl(EDS.as_str().into()),
        Fault::TypeUrl(String::new()),
        Fault::Twice,
        Fault::Garbage(Bytes::from_static(b"\xff\xff\xff")),
        Fault::Garbage(Bytes::new()),
        Fault::Announce(u32::MAX),
        Fault::Truncate,
        Fault::Close(0, String::new()),
        Fault::Close(13, "internal".into()),
        Fault::Refuse(14, "not now".into()),
    ];
    for variant in BOTH {
        for fault in &faults {
            let mut rig = Rig::new(variant).await;
            rig.server.set(&EDS, "v1", [served(&EDS, "x", "1")]);
            rig.subscribe(&EDS, "x");
            rig.accept_until("x", "1").await;
            rig.server.script(fault.clone());
            rig.server.set(&CDS, "v1", [served(&CDS, "a", "1")]);
            rig.subscribe(&CDS, WILDCARD);
            if matches!(fault, Fault::Refuse(..)) {
                rig.server.close_streams();
            }
            // A response that was lost or ignored is not repeated by an honest server: the next version heals.
            let first = rig.server.wait(|all| all.iter().any(|r| r.type_url() == CDS).then_some(()));
            timeout(PATIENCE, first).await.expect("a request");
            rig.server.set(&CDS, "v2", [served(&CDS, "a", "2")]);
            rig.accept_until("a", "2").await;
            rig.server.set(&CDS, "v3", [served(&CDS, "a", "3")]);
            let update = rig.accept_until("a", "3").await;
            rig.heard(|recorded| recorded.nonce() == update.nonce).await;
        }
    }
}

#[tokio::test]
async fn a_repeated_response_is_answered_twice() {
    let mut rig = Rig::new(Variant::StateOfTheWorld).await;
    rig.server.script(Fault::Twice);
    rig.server.set(&CDS, "v1", [served(&CDS, "a", "1")]);
    rig.subscribe(&CDS, WILDCARD);
    rig.accept_until("a", "1").await;
    rig.accept_until("a", "1").await;
    let answers = rig.server.wait(|all| (all.iter().filter(|r| r.is_ack()).count() == 2).then_some(()));
    timeout(PATIENCE, answers).await.expect("two answers");
}

#[tokio::test]
async fn messages_beyond_the_limit_end_the_stream() {
    let mut config = GrpcConfig::new("xds");
    config.max_receive_message_bytes = 10_000;
    let mut rig = Rig::with(Variant::StateOfTheWorld, config, Service::Aggregated).await;
    rig.server.set(&CDS, "v1", [served(&CDS, "a", &"x".repeat(10_000))]);
    rig.subscribe(&CDS, WILDCARD);
    let reason = rig.disconnected().await;
    assert!(reason.contains("OutOfRange"), "{reason}");
    rig.server.set(&CDS, "v2", [served(&CDS, "a", "small")]);
    rig.accept_until("a", "small").await;
}

#[tokio::test]
async fn a_server_that_closes_after_every_response_is_asked_again_and_again() {
    let mut rig = Rig::new(Variant::Delta).await;
    rig.server.close_after_response(true);
    rig.server.set(&CDS, "v0", [served(&CDS, "a", "0")]);
    rig.subscribe(&CDS, WILDCARD);
    for version in 1..20 {
        rig.server.set(&CDS, &format!("v{version}"), [served(&CDS, "a", &version.to_string())]);
        rig.accept_until("a", &version.to_string()).await;
    }
    assert!(rig.server.streams() > 5);
}

#[tokio::test]
async fn a_server_that_refuses_is_tried_until_it_accepts() {
    let mut rig = Rig::new(Variant::StateOfTheWorld).await;
    rig.server.refuse_connections(true);
    rig.server.close_streams();
    rig.server.set(&CDS, "v1", [served(&CDS, "a", "1")]);
    rig.subscribe(&CDS, WILDCARD);
    rig.disconnected().await;
    rig.disconnected().await;
    rig.server.refuse_connections(false);
    rig.accept_until("a", "1").await;
}

#[tokio::test]
async fn a_slow_receiver_slows_the_server_and_loses_nothing() {
    let mut rig = Rig::new(Variant::StateOfTheWorld).await;
    rig.server.set(&CDS, "0", [served(&CDS, "a", "0")]);
    rig.subscribe(&CDS, WILDCARD);
    rig.accept_until("a", "0").await;
    for version in 1..=500 {
        rig.server.set(&CDS, &version.to_string(), [served(&CDS, "a", &version.to_string())]);
        tokio::task::yield_now().await;
    }
    rig.accept_until("a", "500").await;
    timeout(PATIENCE, rig.server.acknowledged(&CDS, "500")).await.expect("the last version acknowledged");
}

#[tokio::test]
async fn held_resources_time_out_and_still_arrive() {
    let mut rig = Rig::new(Variant::Delta).await;
    rig.server.set(&EDS, "v1", [served(&EDS, "a", "1")]);
    rig.server.hold(&EDS);
    rig.client.subscribe(&EDS, vec!["a".into()], Duration::from_millis(5));
    loop {
        match rig.event().await {
            Event::FetchTimeout { type_url, name } => {
                break assert_eq!((type_url, name.as_str()), (EDS, "a"));
            }
            Event::Connected => {}
            other => panic!("{other:?}"),
        }
    }
    rig.server.release(&EDS);
    rig.accept_until("a", "1").await;
}

#[tokio::test]
async fn the_driver_ends_with_its_client() {
    let rig = Rig::new(Variant::Delta).await;
    let Rig { client, events, _driver, server, .. } = rig;
    timeout(PATIENCE, server.streams_opened(1)).await.expect("a stream");
    drop(client);
    timeout(PATIENCE, _driver).await.expect("the driver ends").unwrap();
    drop(events);
}
