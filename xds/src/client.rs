//! Drives a [`Protocol`] with tokio: one task per stream, spoken to through a [`Client`] and heard through [`Events`].
//!
//! The driver owns the connection, the clock and the order of messages; it decides nothing. It never waits for the receiver
//! of its events while requests or commands are due. It reads the next response when the receiver has judged the one before:
//! what that led to, such as interest in the endpoints of a new cluster, decides what of the next one concerns anybody. So a
//! slow receiver also slows the server instead of filling memory.

pub mod filesystem;
pub mod grpc;
mod moves;
pub mod rest;
pub mod service;

use std::future::pending;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_core::Stream;
use futures_core::future::BoxFuture;
use futures_util::StreamExt;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use crate::protocol::{Event, Observer, Protocol, Request, Response, Settings, Verdict};
use crate::resource::TypeUrl;

/// Events that wait for the receiver before responses are no longer read.
const EVENT_QUEUE: usize = 16;
/// Requests that wait for the connection.
const REQUEST_QUEUE: usize = 16;

/// What a [`Client`] asks of its stream.
#[derive(Clone, Debug)]
pub enum Command {
    /// See [`Protocol::subscribe`].
    Subscribe {
        /// The type.
        type_url: TypeUrl,
        /// Names to add; `*` for everything.
        names: Vec<String>,
        /// `initial_fetch_timeout`; zero waits for ever.
        timeout: Duration,
    },
    /// See [`Protocol::unsubscribe`].
    Unsubscribe {
        /// The type.
        type_url: TypeUrl,
        /// Names to remove.
        names: Vec<String>,
    },
    /// See [`Protocol::set_interest`].
    SetInterest {
        /// The type.
        type_url: TypeUrl,
        /// All names wanted from now on.
        names: Vec<String>,
        /// `initial_fetch_timeout` of those that are new; zero waits for ever.
        timeout: Duration,
    },
    /// See [`Protocol::verdict`].
    Verdict(Verdict),
    /// See [`Protocol::pause`].
    Pause(TypeUrl),
    /// See [`Protocol::resume`].
    Resume(TypeUrl),
}

/// The handle of a running stream. Clones speak to the same one; it ends when all are gone.
///
/// No call waits or fails: a stream that has ended ignores commands.
#[derive(Clone, Debug)]
pub struct Client {
    commands: mpsc::UnboundedSender<Vec<Command>>,
}

impl Client {
    /// Adds names to what is wanted of a type; `*` is everything, a `timeout` of zero waits for ever.
    pub fn subscribe(&self, type_url: &TypeUrl, names: Vec<String>, timeout: Duration) {
        self.apply(vec![Command::Subscribe { type_url: type_url.clone(), names, timeout }]);
    }

    /// Removes names from what is wanted of a type.
    pub fn unsubscribe(&self, type_url: &TypeUrl, names: Vec<String>) {
        self.apply(vec![Command::Unsubscribe { type_url: type_url.clone(), names }]);
    }

    /// Makes exactly these names wanted of a type.
    pub fn set_interest(&self, type_url: &TypeUrl, names: Vec<String>, timeout: Duration) {
        self.apply(vec![Command::SetInterest { type_url: type_url.clone(), names, timeout }]);
    }

    /// Answers an update.
    pub fn verdict(&self, verdict: Verdict) {
        self.apply(vec![Command::Verdict(verdict)]);
    }

    /// Holds back requests of a type.
    pub fn pause(&self, type_url: &TypeUrl) {
        self.apply(vec![Command::Pause(type_url.clone())]);
    }

    /// Ends one [`Client::pause`].
    pub fn resume(&self, type_url: &TypeUrl) {
        self.apply(vec![Command::Resume(type_url.clone())]);
    }

    /// Gives commands in order, with no request sent in between: names subscribed together go out in one request, before
    /// the verdict that follows them.
    pub fn apply(&self, commands: Vec<Command>) {
        // Nobody listens when the stream has ended, and then nothing is owed.
        let _ended = self.commands.send(commands);
    }
}

/// What a stream tells, in order.
#[derive(Debug)]
pub struct Events {
    receiver: mpsc::Receiver<Event>,
}

impl Events {
    /// The next event; `None` when the driver has ended. Cancel-safe.
    pub async fn next(&mut self) -> Option<Event> {
        self.receiver.recv().await
    }
}

/// Runs a stream until every [`Client`] or the [`Events`] are gone. To be awaited or spawned, on any tokio runtime with time
/// and network.
pub struct Driver {
    protocol: Protocol,
    transport: Box<dyn Transport>,
    phase: Phase,
    commands: mpsc::UnboundedReceiver<Vec<Command>>,
    events: mpsc::Sender<Event>,
}

/// Opens streams.
trait Transport: Send {
    fn open(&mut self) -> BoxFuture<'static, Result<Link, String>>;
}

/// An open stream.
struct Link {
    requests: mpsc::Sender<Request>,
    incoming: Pin<Box<dyn Stream<Item = Incoming> + Send>>,
}

enum Incoming {
    Response(Response),
    /// Something came that is no response (a file that cannot be read); the stream lives on.
    Unreadable {
        type_url: TypeUrl,
        reason: String,
    },
    /// An attempt to get a response failed; the stream lives on.
    Failed {
        type_url: TypeUrl,
    },
    /// The stream ended.
    Closed(String),
}

enum Phase {
    Idle,
    Opening(BoxFuture<'static, Result<Link, String>>),
    Open(Link),
}

enum Progress {
    Opened(Result<Link, String>),
    Incoming(Incoming),
}

/// What ended a turn's wait.
enum Happened {
    Commands(Vec<Command>),
    Progress(Progress),
    /// Something can be done now.
    Due,
}

/// Waits for room in the event queue, or for its end.
async fn receiver_ready(events: &mpsc::Sender<Event>) {
    drop(events.reserve().await);
}

impl Phase {
    /// Cancel-safe: what is under way is kept in the phase.
    async fn progress(&mut self) -> Progress {
        match self {
            Self::Idle => pending().await,
            Self::Opening(open) => Progress::Opened(open.await),
            Self::Open(link) => {
                let closed = || Incoming::Closed("stream closed by the server".to_owned());
                Progress::Incoming(link.incoming.next().await.unwrap_or_else(closed))
            }
        }
    }
}

impl Driver {
    fn new(
        settings: Settings,
        transport: Box<dyn Transport>,
        observer: Arc<dyn Observer>,
    ) -> (Client, Events, Driver) {
        let (command_sender, commands) = mpsc::unbounded_channel();
        let (events, receiver) = mpsc::channel(EVENT_QUEUE);
        let protocol = Protocol::new(settings, observer, Instant::now().into_std());
        let driver = Driver { protocol, transport, phase: Phase::Idle, commands, events };
        (Client { commands: command_sender }, Events { receiver }, driver)
    }

    /// Runs. Dropping the future closes the connection.
    pub async fn run(mut self) {
        while self.turn().await.is_some() {}
    }

    /// One turn: everything that can be done now, then the next thing that happens. `None` when nobody listens any more.
    async fn turn(&mut self) -> Option<()> {
        let now = Instant::now().into_std();
        self.protocol.timeout(now);
        if self.protocol.wants_stream(now) {
            self.protocol.opening();
            self.phase = Phase::Opening(self.transport.open());
        }
        let requests = self.send_requests(now);
        let events_wait = self.tell_events()?;
        let reads = !events_wait && !self.protocol.awaits_verdict();
        let deadline = self.protocol.deadline().map(Instant::from_std);
        let timer = async {
            match deadline {
                Some(deadline) => sleep_until(deadline).await,
                None => pending().await,
            }
        };
        let room = async {
            match &requests {
                Some(requests) => drop(requests.reserve().await),
                None => pending().await,
            }
        };
        let happened = tokio::select! {
            biased;
            commands = self.commands.recv() => Happened::Commands(commands?),
            () = self.events.closed() => return None,
            () = timer => Happened::Due,
            () = receiver_ready(&self.events), if events_wait => Happened::Due,
            () = room => Happened::Due,
            progress = self.phase.progress(), if reads => Happened::Progress(progress),
        };
        match happened {
            Happened::Due => {}
            Happened::Progress(progress) => self.progressed(progress),
            Happened::Commands(commands) => {
                self.obey(commands);
                while let Ok(commands) = self.commands.try_recv() {
                    self.obey(commands);
                }
            }
        }
        Some(())
    }

    /// Sends what may be sent; the sender comes back if there is more than the connection takes now.
    fn send_requests(&mut self, now: std::time::Instant) -> Option<mpsc::Sender<Request>> {
        let Phase::Open(link) = &self.phase else { return None };
        loop {
            match link.requests.try_reserve() {
                Ok(permit) => permit.send(self.protocol.poll_request(now)?),
                Err(mpsc::error::TrySendError::Full(())) => return Some(link.requests.clone()),
                // The stream is ending, which its incoming side will tell.
                Err(mpsc::error::TrySendError::Closed(())) => return None,
            }
        }
    }

    /// Hands over events; true if some have to wait, `None` if nobody receives them.
    fn tell_events(&mut self) -> Option<bool> {
        while self.protocol.has_event() {
            match self.events.try_reserve() {
                Ok(permit) => permit.send(self.protocol.poll_event()?),
                Err(mpsc::error::TrySendError::Full(())) => return Some(true),
                Err(mpsc::error::TrySendError::Closed(())) => return None,
            }
        }
        Some(false)
    }

    fn progressed(&mut self, progress: Progress) {
        let now = Instant::now().into_std();
        match progress {
            Progress::Opened(Ok(link)) => {
                self.phase = Phase::Open(link);
                self.protocol.opened();
            }
            Progress::Opened(Err(reason)) | Progress::Incoming(Incoming::Closed(reason)) => {
                self.close(now, &reason)
            }
            Progress::Incoming(Incoming::Unreadable { type_url, reason }) => {
                self.protocol.unreadable(&type_url, reason);
            }
            Progress::Incoming(Incoming::Failed { type_url }) => self.protocol.failed(&type_url),
            Progress::Incoming(Incoming::Response(response)) => {
                if let Err(reason) = self.protocol.response(now, response) {
                    self.close(now, &reason);
                }
            }
        }
    }

    fn close(&mut self, now: std::time::Instant, reason: &str) {
        tracing::debug!(reason, "xDS stream closed");
        self.phase = Phase::Idle;
        self.protocol.closed(now, reason);
    }

    fn obey(&mut self, commands: Vec<Command>) {
        let now = Instant::now().into_std();
        for command in commands {
            match command {
                Command::Subscribe { type_url, names, timeout } => {
                    self.protocol.subscribe(now, &type_url, &names, timeout);
                }
                Command::Unsubscribe { type_url, names } => self.protocol.unsubscribe(&type_url, &names),
                Command::SetInterest { type_url, names, timeout } => {
                    self.protocol.set_interest(now, &type_url, &names, timeout);
                }
                Command::Verdict(verdict) => self.protocol.verdict(verdict),
                Command::Pause(type_url) => self.protocol.pause(&type_url),
                Command::Resume(type_url) => self.protocol.resume(&type_url),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::stream;
    use prost::Message;
    use prost_types::Any;
    use xds_api::envoy::config::cluster::v3::Cluster;
    use xds_api::envoy::config::core::v3::Node;
    use xds_api::envoy::config::endpoint::v3::ClusterLoadAssignment;
    use xds_api::envoy::service::discovery::v3::DiscoveryResponse;

    use super::*;
    use crate::protocol::Variant;

    /// A server that says all it has to say at once.
    struct Blurts(Vec<DiscoveryResponse>);

    impl Transport for Blurts {
        fn open(&mut self) -> BoxFuture<'static, Result<Link, String>> {
            let said = std::mem::take(&mut self.0).into_iter();
            let said = said.map(|response| Incoming::Response(Response::StateOfTheWorld(Box::new(response))));
            let (requests, mut heard) = mpsc::channel(REQUEST_QUEUE);
            tokio::spawn(async move { while heard.recv().await.is_some() {} });
            Box::pin(async move {
                Ok(Link { requests, incoming: Box::pin(stream::iter(said).chain(stream::pending())) })
            })
        }
    }

    fn response(type_url: &TypeUrl, resource: &impl Message) -> DiscoveryResponse {
        let any = Any { type_url: type_url.to_string(), value: resource.encode_to_vec() };
        let nonce = type_url.to_string();
        DiscoveryResponse { type_url: nonce.clone(), nonce, resources: vec![any], ..Default::default() }
    }

    async fn update(events: &mut Events) -> crate::protocol::Update {
        loop {
            let event = tokio::time::timeout(Duration::from_secs(30), events.next()).await.expect("an event");
            if let Event::Update(update) = event.expect("a living driver") {
                return update;
            }
        }
    }

    #[tokio::test]
    async fn endpoints_right_behind_their_cluster_are_not_missed() {
        let cluster = Cluster { name: "a".to_owned(), ..Default::default() };
        let endpoints = ClusterLoadAssignment { cluster_name: "a".to_owned(), ..Default::default() };
        let said = vec![
            response(&TypeUrl::CLUSTER, &cluster),
            response(&TypeUrl::CLUSTER_LOAD_ASSIGNMENT, &endpoints),
        ];
        let settings = Settings::new(Variant::StateOfTheWorld, Node::default());
        let (client, mut events, driver) = Driver::new(settings, Box::new(Blurts(said)), Arc::new(()));
        client.subscribe(&TypeUrl::CLUSTER, vec!["*".to_owned()], Duration::ZERO);
        client.subscribe(&TypeUrl::CLUSTER_LOAD_ASSIGNMENT, vec!["other".to_owned()], Duration::ZERO);
        tokio::spawn(driver.run());
        let clusters = update(&mut events).await;
        client.apply(vec![
            Command::Subscribe {
                type_url: TypeUrl::CLUSTER_LOAD_ASSIGNMENT,
                names: vec!["a".to_owned()],
                timeout: Duration::ZERO,
            },
            Command::Verdict(Verdict::accept(&clusters)),
        ]);
        assert_eq!(update(&mut events).await.upserts.first().map(|one| one.name.as_str()), Some("a"));
    }
}
