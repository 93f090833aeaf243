//! One type on one stream: what is wanted, what was delivered, which responses are unanswered, what is to be said.
//!
//! Both protocols share this; what differs in the requests is in `state_of_world` and `delta`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use xds_api::google::rpc::Status;

use super::delta::Delta;
use super::interest::Interest;
use super::ordering::Waiting;
use super::state_of_world::StateOfWorld;
use super::{Limits, Request, ResourceUpdate, Response, Update, UpdateId, Variant};
use crate::resource::{Decoded, DecodedResponse, TypeUrl, WILDCARD, decode_delta, decode_state_of_world};

/// The gRPC code of every rejection: INTERNAL.
const REJECTED: i32 = 13;
/// Longer messages are cut, as Envoy does.
const MAX_MESSAGE_BYTES: usize = 4096;

pub(super) struct Subscription {
    type_url: TypeUrl,
    interest: Interest,
    /// What was delivered and not removed since.
    resources: BTreeMap<String, Delivered>,
    /// The earliest end of a time to live, or an earlier moment.
    earliest_expiry: Option<Instant>,
    /// Responses without a verdict, oldest first.
    unjudged: Vec<Unjudged>,
    /// What has been judged and not been sent.
    answers: VecDeque<Answer>,
    /// The interest is not what the server was told.
    changed: bool,
    variant: Telling,
}

/// What the server was told, which each protocol keeps in its own way.
enum Telling {
    StateOfWorld(StateOfWorld),
    Delta(Delta),
}

/// A resource from the response that brought it until one takes it away, or nobody wants it any more.
struct Delivered {
    /// The response that brought it first.
    since: UpdateId,
    /// The newest version that was accepted, which the server is told on a new stream; none if all were rejected.
    accepted: Option<(UpdateId, String)>,
    expires: Option<Instant>,
}

impl Delivered {
    /// Verdicts come in any order: an older version takes nothing back.
    fn accept(&mut self, accepted: Option<(UpdateId, String)>) {
        self.accepted = self.accepted.take().max(accepted);
    }

    /// What lay between it and `newer` was rejected: they are one.
    fn until(mut self, newer: Option<Self>) -> Self {
        if let Some(newer) = newer {
            self.accept(newer.accepted);
            self.expires = newer.expires;
        }
        self
    }
}

struct Unjudged {
    id: UpdateId,
    nonce: String,
    version: String,
    /// The versions it brought, by name.
    brought: Vec<(String, String)>,
    /// What it took away, with what was held until then: a response that is rejected as a whole takes away nothing.
    removed: Vec<(String, Option<Delivered>)>,
    /// Resources refused before the receiver saw them.
    duplicates: Vec<(String, String)>,
    /// Whether the stream it came from still lives.
    live: bool,
}

/// The answer to a response.
pub(super) struct Answer {
    pub(super) id: UpdateId,
    pub(super) nonce: String,
    /// What an acknowledgement acknowledges.
    pub(super) version: String,
    /// Why it is a rejection.
    pub(super) error: Option<String>,
}

impl Answer {
    pub(super) fn error_detail(&self) -> Option<Status> {
        let message = self.error.clone()?;
        Some(Status { code: REJECTED, message, details: Vec::new() })
    }
}

/// What became of a response.
pub(super) enum Received {
    /// To be judged.
    Update(Update),
    /// Nothing in it concerned anybody: an acknowledgement waits.
    Answered,
    /// It could not be read: a rejection waits.
    Rejected(String),
}

/// What a verdict led to.
pub(super) struct Outcome {
    pub(super) version: String,
    pub(super) error: Option<String>,
    /// Whether an answer waits to be sent.
    pub(super) answer: bool,
}

/// A response, decoded.
struct Content {
    version: String,
    nonce: String,
    decoded: Result<DecodedResponse, String>,
    removed: Vec<String>,
}

impl Subscription {
    pub(super) fn new(type_url: TypeUrl, variant: Variant) -> Self {
        Self {
            type_url,
            interest: Interest::default(),
            resources: BTreeMap::new(),
            earliest_expiry: None,
            unjudged: Vec::new(),
            answers: VecDeque::new(),
            changed: false,
            variant: match variant {
                Variant::StateOfTheWorld => Telling::StateOfWorld(StateOfWorld::default()),
                Variant::Delta => Telling::Delta(Delta::default()),
            },
        }
    }

    pub(super) fn type_url(&self) -> &TypeUrl {
        &self.type_url
    }

    pub(super) fn is_wanted(&self) -> bool {
        !self.interest.is_empty()
    }

    /// How many responses wait for a verdict, or for their answer to be sent.
    pub(super) fn unanswered(&self) -> usize {
        self.unjudged.len() + self.answers.len()
    }

    /// True if a name is new.
    pub(super) fn add(&mut self, now: Instant, names: &[String], timeout: Duration) -> bool {
        if let (true, Telling::StateOfWorld(telling)) = (self.interest.is_empty(), &mut self.variant) {
            // Nothing is held any more, so nothing may be claimed.
            telling.forget_version();
        }
        let mut changed = false;
        for name in names {
            if self.interest.add(name, now, timeout) {
                changed = true;
                if let Telling::Delta(telling) = &mut self.variant {
                    telling.wanted_again(name);
                }
            }
        }
        changed
    }

    /// True if a name was wanted.
    pub(super) fn remove(&mut self, names: &[String]) -> bool {
        let mut changed = false;
        for name in names {
            changed |= self.interest.remove(name);
        }
        if changed {
            let interest = &self.interest;
            self.resources.retain(|name, _| interest.wants(name));
            for unjudged in &mut self.unjudged {
                unjudged.removed.retain(|(name, _)| interest.wants(name));
            }
        }
        changed
    }

    /// The wanted names that are not among these.
    pub(super) fn names_not_in(&self, names: &[String]) -> Vec<String> {
        let keep: BTreeSet<&str> = names.iter().map(String::as_str).collect();
        self.interest.names().filter(|name| !keep.contains(name)).map(str::to_owned).collect()
    }

    /// The interest has changed; true if a request for that does not wait yet.
    pub(super) fn mark_changed(&mut self) -> bool {
        !std::mem::replace(&mut self.changed, true)
    }

    /// A new stream: everything is to be told again. True if there is anything.
    pub(super) fn stream_opened(&mut self) -> bool {
        match &mut self.variant {
            Telling::StateOfWorld(telling) => telling.stream_opened(),
            Telling::Delta(telling) => telling.stream_opened(),
        }
        self.changed = self.is_wanted();
        self.changed
    }

    pub(super) fn stream_closed(&mut self) {
        self.answers.clear();
        self.changed = false;
        self.unjudged.iter_mut().for_each(|unjudged| unjudged.live = false);
    }

    /// Takes a response.
    pub(super) fn receive(
        &mut self,
        now: Instant,
        id: UpdateId,
        response: Response,
        limits: &Limits,
    ) -> Received {
        let content = read(response, limits);
        let (decoded, removed) = match content.decoded {
            Ok(decoded) => (decoded, content.removed),
            Err(reason) => {
                self.interest.all_answered();
                let error = Some(cut(reason.clone()));
                self.answers.push_back(Answer { id, nonce: content.nonce, version: content.version, error });
                return Received::Rejected(reason);
            }
        };
        let full_state = matches!(self.variant, Telling::StateOfWorld(_)) && self.type_url.lists_everything();
        let update = self.deliver(now, id, decoded.resources, removed, full_state);
        let idle = update.upserts.is_empty() && update.removed.is_empty() && decoded.duplicates.is_empty();
        if idle && (update.heartbeat || !self.interest.is_wildcard()) {
            if let (true, Telling::StateOfWorld(telling)) = (self.is_wanted(), &mut self.variant) {
                telling.accepted(id, &content.version);
            }
            self.answers.push_back(Answer {
                id,
                nonce: content.nonce,
                version: content.version,
                error: None,
            });
            return Received::Answered;
        }
        self.unjudged.push(Unjudged {
            id,
            nonce: content.nonce.clone(),
            version: content.version.clone(),
            brought: update.upserts.iter().map(|new| (new.name.clone(), new.version.clone())).collect(),
            removed: update.forgotten,
            duplicates: decoded.duplicates,
            live: true,
        });
        Received::Update(Update {
            id,
            type_url: self.type_url.clone(),
            version: content.version,
            nonce: content.nonce,
            upserts: update.upserts,
            removed: update.removed,
            full_state,
        })
    }

    /// Notes what the response brings and picks what concerns the receiver.
    fn deliver(
        &mut self,
        now: Instant,
        id: UpdateId,
        resources: Vec<Decoded>,
        gone: Vec<String>,
        full_state: bool,
    ) -> Delivery {
        let mut delivery = Delivery::default();
        let mut present = BTreeSet::new();
        self.interest.answered(WILDCARD);
        for resource in resources {
            if !self.interest.wants(&resource.name) {
                continue;
            }
            self.interest.answered(&resource.name);
            let expires = resource.ttl.and_then(|ttl| now.checked_add(ttl));
            self.earliest_expiry = [self.earliest_expiry, expires].into_iter().flatten().min();
            if full_state {
                present.insert(resource.name.clone());
            }
            let Some(any) = resource.any else {
                delivery.heartbeat = true;
                if let Some(held) = self.resources.get_mut(&resource.name) {
                    held.expires = expires;
                }
                continue;
            };
            let new = Delivered { since: id, accepted: None, expires };
            self.resources.entry(resource.name.clone()).or_insert(new).expires = expires;
            delivery.upserts.push(ResourceUpdate { name: resource.name, version: resource.version, any });
        }
        for name in gone {
            if self.interest.wants(&name) {
                self.interest.answered(&name);
                delivery.forgotten.push((name.clone(), self.resources.remove(&name)));
                delivery.removed.push(name);
            }
        }
        if full_state {
            let missing = self.resources.extract_if(.., |name, _| !present.contains(name));
            for (name, held) in missing {
                delivery.removed.push(name.clone());
                delivery.forgotten.push((name, Some(held)));
            }
        }
        delivery
    }

    pub(super) fn awaits_verdict(&self) -> bool {
        !self.unjudged.is_empty()
    }

    /// Applies a verdict; `None` if none is owed for this id.
    pub(super) fn judge(&mut self, id: UpdateId, rejected: Vec<(String, String)>) -> Option<Outcome> {
        let position = self.unjudged.iter().position(|unjudged| unjudged.id == id)?;
        let mut unjudged = self.unjudged.remove(position);
        if rejected.iter().any(|(name, _)| name.is_empty()) {
            for (name, held) in std::mem::take(&mut unjudged.removed) {
                if let Some(held) = held {
                    self.give_back(id, name, held);
                }
            }
        } else {
            let refused: BTreeSet<&str> = rejected.iter().map(|(name, _)| name.as_str()).collect();
            for (name, version) in std::mem::take(&mut unjudged.brought) {
                if !refused.contains(name.as_str())
                    && let Some(held) = self.held_since(&name, id)
                {
                    held.accept(Some((id, version)));
                }
            }
            // it is gone, whatever becomes of an earlier removal
            for (name, _) in &unjudged.removed {
                for (_, held) in self.removals(name).filter(|(by, _)| *by < id) {
                    *held = None;
                }
            }
        }
        unjudged.duplicates.extend(rejected);
        let error = rejection(&self.type_url, &unjudged.duplicates);
        if let (None, Telling::StateOfWorld(telling)) = (&error, &mut self.variant) {
            telling.accepted(id, &unjudged.version);
        }
        let outcome =
            Outcome { version: unjudged.version.clone(), error: error.clone(), answer: unjudged.live };
        if unjudged.live {
            self.answers.push_back(Answer { id, nonce: unjudged.nonce, version: unjudged.version, error });
        }
        Some(outcome)
    }

    /// The removals of a resource that have no verdict, oldest first, and what each took away.
    fn removals(&mut self, name: &str) -> impl Iterator<Item = (UpdateId, &mut Option<Delivered>)> {
        self.unjudged.iter_mut().flat_map(move |unjudged| {
            let (by, removed) = (unjudged.id, unjudged.removed.iter_mut());
            removed.filter(move |(removed, _)| removed == name).map(move |(_, held)| (by, held))
        })
    }

    /// The resource that a response brought or renewed.
    fn held_since(&mut self, name: &str, id: UpdateId) -> Option<&mut Delivered> {
        if self.resources.get(name).is_some_and(|held| held.since <= id) {
            return self.resources.get_mut(name);
        }
        let taken = self.removals(name).filter_map(|(_, held)| held.as_mut());
        taken.filter(|held| held.since <= id).max_by_key(|held| held.since)
    }

    /// The removal of a resource was rejected: it was there all the time, until the next removal at least.
    fn give_back(&mut self, id: UpdateId, name: String, held: Delivered) {
        if let Some((_, next)) = self.removals(&name).find(|(by, _)| *by > id) {
            *next = Some(held.until(next.take()));
            return;
        }
        let held = held.until(self.resources.remove(&name));
        self.earliest_expiry = [self.earliest_expiry, held.expires].into_iter().flatten().min();
        self.resources.insert(name, held);
    }

    /// Whether this waiting message still has something to say.
    pub(super) fn will_send(&mut self, waiting: Waiting) -> bool {
        match waiting {
            Waiting::Answer(_) => !self.answers.is_empty(),
            Waiting::Interest(_) if !self.changed => false,
            Waiting::Interest(_) => match &self.variant {
                Telling::StateOfWorld(telling) => {
                    // While an answer is due, the change rides with it: the nonce of an unanswered response would be
                    // neither an acknowledgement nor a rejection, and servers ignore an older one.
                    let answer_due =
                        !self.answers.is_empty() || self.unjudged.iter().any(|unjudged| unjudged.live);
                    let tells = telling.has_news(&self.interest);
                    self.changed = tells;
                    tells && !answer_due
                }
                Telling::Delta(telling) => {
                    self.changed = telling.has_news(&self.interest);
                    self.changed
                }
            },
        }
    }

    /// The message itself; [`Subscription::will_send`] said that there is one.
    pub(super) fn request(&mut self, waiting: Waiting) -> Request {
        let answer = match waiting {
            Waiting::Answer(_) => self.answers.pop_front(),
            Waiting::Interest(_) => None,
        };
        match &mut self.variant {
            Telling::StateOfWorld(telling) => {
                self.changed = false;
                Request::StateOfTheWorld(Box::new(telling.request(&self.type_url, &self.interest, answer)))
            }
            Telling::Delta(telling) => {
                if let Some(answer) = answer {
                    return Request::Delta(Box::new(Delta::answer(&self.type_url, &answer)));
                }
                self.changed = false;
                let held = self
                    .resources
                    .iter()
                    .filter_map(|(name, held)| Some((name.clone(), held.accepted.clone()?.1)));
                Request::Delta(Box::new(telling.request(&self.type_url, &self.interest, held)))
            }
        }
    }

    /// Nobody need wait for a first answer any longer.
    pub(super) fn give_up_waiting(&mut self) {
        self.interest.all_answered();
    }

    /// When [`Subscription::fetch_timeouts`] or [`Subscription::expired`] have something to say.
    pub(super) fn deadline(&self) -> Option<Instant> {
        [self.interest.deadline(), self.earliest_expiry].into_iter().flatten().min()
    }

    /// The names whose first answer did not come in time.
    pub(super) fn fetch_timeouts(&mut self, now: Instant) -> Vec<String> {
        self.interest.expired(now)
    }

    /// Forgets and tells the resources whose time to live has ended.
    pub(super) fn expired(&mut self, now: Instant) -> Vec<String> {
        if self.earliest_expiry.is_none_or(|earliest| earliest > now) {
            return Vec::new();
        }
        let expired =
            self.resources.extract_if(.., |_, held| held.expires.is_some_and(|expires| expires <= now));
        let expired = expired.map(|(name, _)| name).collect();
        self.earliest_expiry = self.resources.values().filter_map(|held| held.expires).min();
        expired
    }
}

#[derive(Default)]
struct Delivery {
    upserts: Vec<ResourceUpdate>,
    removed: Vec<String>,
    /// What was held under the removed names.
    forgotten: Vec<(String, Option<Delivered>)>,
    heartbeat: bool,
}

fn read(response: Response, limits: &Limits) -> Content {
    match response {
        Response::StateOfTheWorld(response) => {
            let (version, nonce) = (response.version_info.clone(), response.nonce.clone());
            Content { version, nonce, decoded: decode_state_of_world(*response, limits), removed: Vec::new() }
        }
        Response::Delta(response) => {
            let (version, nonce) = (response.system_version_info.clone(), response.nonce.clone());
            let (decoded, removed) = match decode_delta(*response, limits) {
                Ok((resources, removed)) => {
                    (Ok(DecodedResponse { resources, duplicates: Vec::new() }), removed)
                }
                Err(reason) => (Err(reason), Vec::new()),
            };
            Content { version, nonce, decoded, removed }
        }
    }
}

/// The message for rejected resources, worded as Envoy does; `None` if there are none.
fn rejection(type_url: &TypeUrl, rejected: &[(String, String)]) -> Option<String> {
    if rejected.is_empty() {
        return None;
    }
    let ends_lines = *type_url == TypeUrl::LISTENER;
    let mut message = String::new();
    for (name, reason) in rejected {
        if message.is_empty() {
            if !name.is_empty() {
                message.push_str(type_url.rejection_prefix());
            }
        } else if !ends_lines {
            message.push_str(", ");
        }
        if !name.is_empty() {
            message.push_str(name);
            message.push_str(": ");
        }
        message.push_str(reason);
        if ends_lines {
            message.push('\n');
        }
        if message.len() > MAX_MESSAGE_BYTES {
            break;
        }
    }
    Some(cut(message))
}

fn cut(mut message: String) -> String {
    if message.len() > MAX_MESSAGE_BYTES {
        message.truncate(message.floor_char_boundary(MAX_MESSAGE_BYTES));
        message.push_str("...(truncated)");
    }
    message
}
