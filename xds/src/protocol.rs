//! The state machine of an xDS stream: no sockets, no clock.
//!
//! In go responses, the opening and closing of the stream, the time, interest and verdicts; out come requests (in the order in
//! which they have to be sent), [`Event`]s for the keeper of the configuration, and the moment of the next timer. One
//! [`Protocol`] serves an aggregated stream, which carries all types, or a stream of one type.
//!
//! What holds at all times:
//! * every response to a type that was ever subscribed is answered exactly once while its stream lives;
//! * an acknowledgement never names a version with rejected resources; a rejection keeps the last good version;
//! * after a reconnect everything wanted is asked for again, with empty nonces;
//! * an [`Update`] is answered when its [`Verdict`] comes, so that the keeper decides the moment (warming).
//!
//! References: Envoy "xDS REST and gRPC protocol"; `envoy.service.discovery.v3`; `envoy.config.core.v3.ApiConfigSource`.

mod backoff;
mod delta;
mod interest;
mod ordering;
mod state_of_world;
mod subscription;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use prost_types::Any;
use xds_api::envoy::config::core::v3::{ControlPlane, Node};
use xds_api::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};

pub use self::backoff::BackoffConfig;
pub use self::ordering::RateLimit;

use self::backoff::Backoff;
use self::ordering::{Line, TokenBucket, Waiting};
use self::subscription::{Received, Subscription};
use crate::resource::TypeUrl;

/// Which of the two protocols the stream speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// Each response holds the state of all resources asked for (`GRPC`).
    StateOfTheWorld,
    /// Responses hold changes (`DELTA_GRPC`).
    Delta,
}

/// What a peer may send at most; a response beyond is rejected as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Resources (and removed names) in one response.
    pub max_resources: usize,
    /// Bytes of a resource name.
    pub max_name_bytes: usize,
    /// Responses of one type that wait for a verdict, or for their answer to be sent; one more ends the stream.
    pub max_unanswered: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_resources: 1_000_000, max_name_bytes: 64 * 1024, max_unanswered: 10_000 }
    }
}

impl Limits {
    pub(crate) fn check_count(&self, count: usize) -> Result<(), String> {
        if count <= self.max_resources {
            return Ok(());
        }
        Err(format!("{count} resources in one response, at most {} are accepted", self.max_resources))
    }

    pub(crate) fn check_name(&self, name: &str) -> Result<(), String> {
        if name.len() <= self.max_name_bytes {
            return Ok(());
        }
        Err(format!("a resource name of {} bytes, at most {} are accepted", name.len(), self.max_name_bytes))
    }
}

/// How a stream behaves; from an `ApiConfigSource` and the bootstrap's node.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Which protocol.
    pub variant: Variant,
    /// Who we are, told in the first request of a stream at least.
    pub node: Node,
    /// `set_node_on_first_message_only`.
    pub set_node_on_first_message_only: bool,
    /// Delays between attempts to open the stream.
    pub backoff: BackoffConfig,
    /// `rate_limit_settings`; `None` sends at once.
    pub rate_limit: Option<RateLimit>,
    /// What the server may send.
    pub limits: Limits,
    /// Where the jitter of the back-off starts; the same seed gives the same delays.
    pub seed: u64,
}

impl Settings {
    /// Envoy's defaults: no rate limit, back-off from 500 ms to 30 s, the node in every request.
    pub fn new(variant: Variant, node: Node) -> Self {
        Self {
            variant,
            node,
            set_node_on_first_message_only: false,
            backoff: BackoffConfig::default(),
            rate_limit: None,
            limits: Limits::default(),
            seed: fastrand::u64(..),
        }
    }
}

/// Identifies an [`Update`] of one [`Protocol`]; later ones are greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UpdateId(u64);

/// Changes of one type, from one response (or from resources whose time to live ended).
#[derive(Clone, Debug, PartialEq)]
pub struct Update {
    /// To be given back in the [`Verdict`].
    pub id: UpdateId,
    /// The type of all resources in it.
    pub type_url: TypeUrl,
    /// `version_info` or `system_version_info` of the response; empty when a time to live ended.
    pub version: String,
    /// The response's nonce; empty when a time to live ended.
    pub nonce: String,
    /// Wanted resources in the order of the response; each name once.
    pub upserts: Vec<ResourceUpdate>,
    /// Names that are gone. A name may be unknown to the receiver.
    pub removed: Vec<String>,
    /// Whether `upserts` lists all resources there are (then `removed` already tells what vanished since the last response).
    pub full_state: bool,
}

/// A resource that is new or has changed, or is merely repeated (the receiver compares).
#[derive(Clone, Debug, PartialEq)]
pub struct ResourceUpdate {
    /// Its name.
    pub name: String,
    /// Its own version, else that of the response.
    pub version: String,
    /// Type and bytes.
    pub any: Any,
}

/// What became of an [`Update`]. Resources not rejected are accepted.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// The update's.
    pub id: UpdateId,
    /// The update's.
    pub type_url: TypeUrl,
    /// Resource name and reason; an empty name rejects the update as a whole.
    pub rejected: Vec<(String, String)>,
}

impl Verdict {
    /// Everything in the update was applied.
    pub fn accept(update: &Update) -> Self {
        Self::reject(update, Vec::new())
    }

    /// These resources, with reasons, were not applied; the others were.
    pub fn reject(update: &Update, rejected: Vec<(String, String)>) -> Self {
        Self { id: update.id, type_url: update.type_url.clone(), rejected }
    }
}

/// What the protocol tells the keeper of the configuration.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The stream is open; requests flow.
    Connected,
    /// The stream ended or could not be opened. The configuration stays; another attempt follows.
    Disconnected {
        /// For the log.
        reason: String,
    },
    /// Changes to apply; a [`Verdict`] is owed.
    Update(Update),
    /// A response was rejected before any of its resources could be read. It is answered already; who waits for a first
    /// answer of this type need not wait longer.
    Rejected {
        /// The type.
        type_url: TypeUrl,
        /// What the server was told.
        reason: String,
    },
    /// A file could not be read, or is no response. What was delivered stays; who waits for a first answer need not wait longer.
    Unreadable {
        /// The type.
        type_url: TypeUrl,
        /// What is wrong with it.
        reason: String,
    },
    /// No answer for a name within its initial fetch timeout (`*` for the wildcard). The subscription stays.
    FetchTimeout {
        /// The type.
        type_url: TypeUrl,
        /// The name.
        name: String,
    },
    /// The server named itself, or changed its name.
    ControlPlaneIdentifier(String),
}

/// A request to send.
#[derive(Clone, Debug, PartialEq)]
pub enum Request {
    /// For a state-of-the-world stream.
    StateOfTheWorld(Box<DiscoveryRequest>),
    /// For a delta stream.
    Delta(Box<DeltaDiscoveryRequest>),
}

/// A response that came in.
#[derive(Clone, Debug, PartialEq)]
pub enum Response {
    /// From a state-of-the-world stream, or a file.
    StateOfTheWorld(Box<DiscoveryResponse>),
    /// From a delta stream.
    Delta(Box<DeltaDiscoveryResponse>),
}

impl Response {
    fn type_url(&self) -> &str {
        match self {
            Self::StateOfTheWorld(response) => &response.type_url,
            Self::Delta(response) => &response.type_url,
        }
    }

    fn nonce(&self) -> &str {
        match self {
            Self::StateOfTheWorld(response) => &response.nonce,
            Self::Delta(response) => &response.nonce,
        }
    }

    fn control_plane(&self) -> Option<&ControlPlane> {
        match self {
            Self::StateOfTheWorld(response) => response.control_plane.as_ref(),
            Self::Delta(response) => response.control_plane.as_ref(),
        }
    }
}

/// Where statistics go; every call is cheap and may be ignored.
///
/// The names are those of Envoy's `control_plane.*` and `<subscription>.update_*` statistics.
pub trait Observer: Send + Sync {
    /// `control_plane.connected_state`.
    fn connected_state(&self, _connected: bool) {}
    /// `control_plane.pending_requests`.
    fn pending_requests(&self, _count: usize) {}
    /// `control_plane.rate_limit_enforced`.
    fn rate_limit_enforced(&self) {}
    /// `control_plane.identifier`.
    fn identifier(&self, _identifier: &str) {}
    /// `update_attempt`.
    fn update_attempt(&self, _type_url: &TypeUrl) {}
    /// `update_success`, `version_text`, `version`.
    fn update_success(&self, _type_url: &TypeUrl, _version: &str) {}
    /// `update_failure`: the stream failed.
    fn update_failure(&self, _type_url: &TypeUrl) {}
    /// `update_rejected`.
    fn update_rejected(&self, _type_url: &TypeUrl, _reason: &str) {}
    /// `init_fetch_timeout`.
    fn init_fetch_timeout(&self, _type_url: &TypeUrl, _name: &str) {}
}

/// Counts nothing.
impl Observer for () {}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stream {
    /// Not open; not to be opened before this moment.
    Closed {
        retry: Instant,
    },
    Opening,
    Open,
}

/// See the module's documentation.
pub struct Protocol {
    settings: Settings,
    observer: Arc<dyn Observer>,
    stream: Stream,
    node_sent: bool,
    backoff: Backoff,
    bucket: Option<TokenBucket>,
    /// When the next token comes, while requests wait for it.
    token_at: Option<Instant>,
    subscriptions: Vec<Subscription>,
    line: Line,
    events: VecDeque<Event>,
    next_id: u64,
    identifier: String,
}

impl Protocol {
    /// A protocol without subscriptions, whose stream may be opened at once.
    pub fn new(settings: Settings, observer: Arc<dyn Observer>, now: Instant) -> Self {
        Self {
            stream: Stream::Closed { retry: now },
            node_sent: false,
            backoff: Backoff::new(settings.backoff, settings.seed),
            bucket: settings.rate_limit.map(|limit| TokenBucket::new(limit, now)),
            token_at: None,
            subscriptions: Vec::new(),
            line: Line::default(),
            events: VecDeque::new(),
            next_id: 0,
            identifier: String::new(),
            settings,
            observer,
        }
    }

    /// Adds names ([`crate::WILDCARD`] among them for everything) to what is wanted of a type.
    ///
    /// For names that are new, [`Event::FetchTimeout`] follows unless an answer comes within `timeout`; zero waits for ever.
    pub fn subscribe(&mut self, now: Instant, type_url: &TypeUrl, names: &[String], timeout: Duration) {
        let index = self.subscription(type_url);
        let Some(subscription) = self.subscriptions.get_mut(index) else { return };
        if subscription.add(now, names, timeout) {
            self.observer.update_attempt(type_url);
            self.interest_changed(index);
        }
    }

    /// Removes names from what is wanted of a type. Their resources are forgotten here, those of open updates as well, which
    /// the receiver has to skip; no removal is reported. Who wants them again is sent them again.
    pub fn unsubscribe(&mut self, type_url: &TypeUrl, names: &[String]) {
        let Some(index) = self.find(type_url) else { return };
        let Some(subscription) = self.subscriptions.get_mut(index) else { return };
        if subscription.remove(names) {
            self.observer.update_attempt(type_url);
            self.interest_changed(index);
        }
    }

    /// Makes exactly these names wanted of a type: [`Protocol::subscribe`] and [`Protocol::unsubscribe`] in one request.
    pub fn set_interest(&mut self, now: Instant, type_url: &TypeUrl, names: &[String], timeout: Duration) {
        let index = self.subscription(type_url);
        let Some(subscription) = self.subscriptions.get_mut(index) else { return };
        let gone = subscription.names_not_in(names);
        let added = subscription.add(now, names, timeout);
        if subscription.remove(&gone) || added {
            self.observer.update_attempt(type_url);
            self.interest_changed(index);
        }
    }

    /// Answers an update. Later verdicts on the same update, and those for a stream that has ended, send nothing.
    pub fn verdict(&mut self, verdict: Verdict) {
        let Some(index) = self.find(&verdict.type_url) else { return };
        let Some(subscription) = self.subscriptions.get_mut(index) else { return };
        let Some(outcome) = subscription.judge(verdict.id, verdict.rejected) else { return };
        match &outcome.error {
            None => self.observer.update_success(&verdict.type_url, &outcome.version),
            Some(reason) => self.observer.update_rejected(&verdict.type_url, reason),
        }
        self.observer.update_attempt(&verdict.type_url);
        if outcome.answer {
            self.push(Waiting::Answer(index));
        }
    }

    /// Whether an update has not been answered.
    pub fn awaits_verdict(&self) -> bool {
        self.subscriptions.iter().any(Subscription::awaits_verdict)
    }

    /// Holds back requests of a type until as many calls of [`Protocol::resume`]; responses are still taken.
    pub fn pause(&mut self, type_url: &TypeUrl) {
        let index = self.subscription(type_url);
        self.line.pause(index);
    }

    /// Ends one [`Protocol::pause`].
    pub fn resume(&mut self, type_url: &TypeUrl) {
        if let Some(index) = self.find(type_url) {
            self.line.resume(index);
        }
    }

    /// Whether a stream should be opened now; [`Protocol::opening`] has to follow.
    pub fn wants_stream(&self, now: Instant) -> bool {
        matches!(self.stream, Stream::Closed { retry } if retry <= now)
    }

    /// An attempt to open the stream began.
    pub fn opening(&mut self) {
        self.stream = Stream::Opening;
    }

    /// Requests can be sent.
    pub fn opened(&mut self) {
        self.stream = Stream::Open;
        self.node_sent = false;
        self.line.clear();
        self.observer.connected_state(true);
        self.events.push_back(Event::Connected);
        for index in 0..self.subscriptions.len() {
            if self.subscriptions.get_mut(index).is_some_and(Subscription::stream_opened) {
                self.line.push(Waiting::Interest(index));
            }
        }
    }

    /// The stream ended, or the attempt to open it failed.
    pub fn closed(&mut self, now: Instant, reason: &str) {
        self.stream = Stream::Closed { retry: now + self.backoff.next() };
        self.line.clear();
        self.token_at = None;
        self.observer.connected_state(false);
        self.observer.pending_requests(0);
        for subscription in &mut self.subscriptions {
            subscription.stream_closed();
            if subscription.is_wanted() {
                self.observer.update_failure(subscription.type_url());
                self.observer.update_attempt(subscription.type_url());
            }
        }
        self.events.push_back(Event::Disconnected { reason: reason.to_owned() });
    }

    /// Takes a response of the open stream.
    ///
    /// One for a type that was never subscribed is ignored, as Envoy does: an answer would subscribe to it.
    ///
    /// # Errors
    /// More responses of the type are unanswered than [`Limits`] allow: the stream has to be closed, for this reason.
    pub fn response(&mut self, now: Instant, response: Response) -> Result<(), String> {
        if self.stream != Stream::Open {
            return Ok(());
        }
        self.backoff.reset();
        if let Some(control_plane) = response.control_plane() {
            self.identified(&control_plane.identifier.clone());
        }
        let type_url = TypeUrl::new(response.type_url());
        let Some(index) = self.find(&type_url) else {
            tracing::warn!(%type_url, nonce = response.nonce(), "response for a type without subscription ignored");
            return Ok(());
        };
        let Some(subscription) = self.subscriptions.get_mut(index) else { return Ok(()) };
        if subscription.unanswered() >= self.settings.limits.max_unanswered {
            return Err(format!("{} unanswered responses of type {type_url}", subscription.unanswered()));
        }
        self.next_id += 1;
        let id = UpdateId(self.next_id);
        match subscription.receive(now, id, response, &self.settings.limits) {
            Received::Update(update) => self.events.push_back(Event::Update(update)),
            Received::Answered => self.push(Waiting::Answer(index)),
            Received::Rejected(reason) => {
                self.observer.update_rejected(&type_url, &reason);
                self.observer.update_attempt(&type_url);
                self.push(Waiting::Answer(index));
                self.events.push_back(Event::Rejected { type_url, reason });
            }
        }
        Ok(())
    }

    /// An attempt to get a response of this type failed, while the stream (of polls) goes on.
    pub fn failed(&mut self, type_url: &TypeUrl) {
        self.observer.update_failure(type_url);
        self.observer.update_attempt(type_url);
    }

    /// Something came in place of a response of this type and could not be read. What was delivered stays.
    pub fn unreadable(&mut self, type_url: &TypeUrl, reason: String) {
        let Some(index) = self.find(type_url) else { return };
        if let Some(subscription) = self.subscriptions.get_mut(index) {
            subscription.give_up_waiting();
        }
        self.observer.update_failure(type_url);
        self.observer.update_attempt(type_url);
        self.events.push_back(Event::Unreadable { type_url: type_url.clone(), reason });
    }

    /// When to call [`Protocol::timeout`], and to look at [`Protocol::wants_stream`] and [`Protocol::poll_request`] again.
    pub fn deadline(&self) -> Option<Instant> {
        let retry = match self.stream {
            Stream::Closed { retry } => Some(retry),
            Stream::Opening | Stream::Open => None,
        };
        let subscriptions = self.subscriptions.iter().filter_map(Subscription::deadline).min();
        [retry, self.token_at, subscriptions].into_iter().flatten().min()
    }

    /// Ends initial fetch timeouts and times to live.
    pub fn timeout(&mut self, now: Instant) {
        if self.token_at.is_some_and(|at| at <= now) {
            self.token_at = None;
        }
        for subscription in &mut self.subscriptions {
            let type_url = subscription.type_url().clone();
            for name in subscription.fetch_timeouts(now) {
                self.observer.init_fetch_timeout(&type_url, &name);
                self.events.push_back(Event::FetchTimeout { type_url: type_url.clone(), name });
            }
            let removed = subscription.expired(now);
            if !removed.is_empty() {
                self.next_id += 1;
                self.events.push_back(Event::Update(Update {
                    id: UpdateId(self.next_id),
                    type_url,
                    version: String::new(),
                    nonce: String::new(),
                    upserts: Vec::new(),
                    removed,
                    full_state: false,
                }));
            }
        }
    }

    /// The next request to send now.
    pub fn poll_request(&mut self, now: Instant) -> Option<Request> {
        if self.stream != Stream::Open || self.token_at.is_some_and(|at| at > now) {
            return None;
        }
        while self.line.has_sendable() {
            let next = self.line.pop()?;
            let index = next.index();
            if !self.subscriptions.get_mut(index)?.will_send(next) {
                continue;
            }
            if let Some(Err(at)) = self.bucket.as_mut().map(|bucket| bucket.take(now)) {
                self.observer.rate_limit_enforced();
                self.token_at = Some(at);
                self.line.push_front(next);
                return None;
            }
            let mut request = self.subscriptions.get_mut(index)?.request(next);
            if !(self.node_sent && self.settings.set_node_on_first_message_only) {
                let node = Some(self.settings.node.clone());
                match &mut request {
                    Request::StateOfTheWorld(request) => request.node = node,
                    Request::Delta(request) => request.node = node,
                }
                self.node_sent = true;
            }
            self.observer.pending_requests(self.line.len());
            return Some(request);
        }
        None
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Whether [`Protocol::poll_event`] has one.
    pub fn has_event(&self) -> bool {
        !self.events.is_empty()
    }

    fn identified(&mut self, identifier: &str) {
        if self.identifier != identifier {
            identifier.clone_into(&mut self.identifier);
            self.observer.identifier(identifier);
            self.events.push_back(Event::ControlPlaneIdentifier(identifier.to_owned()));
        }
    }

    fn interest_changed(&mut self, index: usize) {
        if self.stream == Stream::Open
            && self.subscriptions.get_mut(index).is_some_and(Subscription::mark_changed)
        {
            self.push(Waiting::Interest(index));
        }
    }

    fn push(&mut self, waiting: Waiting) {
        self.line.push(waiting);
        self.observer.pending_requests(self.line.len());
    }

    fn find(&self, type_url: &TypeUrl) -> Option<usize> {
        self.subscriptions.iter().position(|subscription| subscription.type_url() == type_url)
    }

    fn subscription(&mut self, type_url: &TypeUrl) -> usize {
        self.find(type_url).unwrap_or_else(|| {
            self.subscriptions.push(Subscription::new(type_url.clone(), self.settings.variant));
            self.subscriptions.len() - 1
        })
    }
}

#[cfg(test)]
mod tests;
