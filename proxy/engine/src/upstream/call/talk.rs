//! Calls whose messages go both ways until one side ends them: streams to a service that a part of the proxy keeps up.
//!
//! Such a call counts as answered when its head comes. It is not made again: who keeps it up knows when to begin anew, and with what.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::BytesMut;
use http::StatusCode;
use proxy_core::callout::grpc::take_message;
use proxy_core::callout::{Call, CallFailure, EnvoyHeaders, Talk};
use proxy_core::config::BuildEnv;
use proxy_core::head::{BodyEvent, ResponseHead};
use proxy_core::stream_error::UpstreamReset;
use proxy_core::upstream::HostResult;

use super::{Calling, Extent, Sent, write_headers};
use crate::codec::upstream::UpstreamEvent;
use crate::local::clock;
use crate::upstream::outlier::judged_status;
use crate::upstream::pool::Clusters;
use crate::upstream::stream::Upstream;

/// Makes `call`, whose body is `talk`, until it is over. Cancel-safe: dropping it resets the request.
pub(crate) async fn converse(
    clusters: Rc<Clusters>,
    env: Arc<BuildEnv>,
    random: fastrand::Rng,
    mut call: Call,
    talk: Talk,
) -> Result<(), CallFailure> {
    let Some(cluster) = clusters.get(&call.cluster) else { return Err(CallFailure::NoCluster) };
    let clusters = cluster.aggregate().is_some().then_some(clusters);
    write_headers(&mut call, env.node.address);
    let (limit, extent) = (call.max_response_bytes, Extent::Call);
    let mut calling =
        Calling { cluster, clusters, member: None, call, extent, random, host: None, is_answered: false };
    let begun = clock::now();
    let mut talking = Talking { talk, is_told: false, is_over: false, heard: BytesMut::new(), limit };
    let ended = calling.converse(&mut talking).await;
    match ended {
        Ok(()) => calling.count_time(begun),
        Err(failure) if calling.is_answered => calling.count_failure(&failure),
        Err(failure) => calling.settle(&mut Err(failure), begun, false),
    }
    ended
}

impl Calling {
    async fn converse(&mut self, talking: &mut Talking) -> Result<(), CallFailure> {
        self.check_maintenance()?;
        let (mut up, _in_flight) = self.open(false).await?;
        up.request(&self.call.request, false).map_err(CallFailure::Reset)?;
        let carrier = self.host_cluster().clone();
        let sent = Sent { cluster: &carrier.cluster, protocol: up.protocol() };
        loop {
            match poll_fn(|cx| talking.poll(&mut up, cx)).await {
                Ok(Heard::Head(head)) => self.answered(&head),
                Ok(Heard::End) => {
                    if talking.is_told {
                        std::mem::forget(sent);
                    }
                    return Ok(());
                }
                Err(Unheard::Reset(reset)) => {
                    std::mem::forget(sent);
                    return Err(CallFailure::Reset(reset));
                }
                // (Given up on this side.)
                Err(Unheard::TooLarge) => return Err(CallFailure::TooLarge),
                Err(Unheard::NoMessage) => return Err(CallFailure::Reset(UpstreamReset::LocalReset)),
            }
        }
    }

    /// Counts the head of the answer.
    fn answered(&mut self, head: &ResponseHead) {
        self.is_answered = true;
        let (stats, status) = (self.stats(), head.status.as_u16());
        stats.upstream_rq.inc(status);
        match self.call.envoy_headers {
            EnvoyHeaders::Skipped => stats.external_upstream_rq.inc(status),
            EnvoyHeaders::Internal | EnvoyHeaders::InternalAndForwarded => {
                stats.internal_upstream_rq.inc(status);
            }
        }
        self.note(HostResult::Answered(judged_status(head, true)));
        let Some(host) = &self.host else { return };
        let counter = match head.status.is_server_error() {
            true => &host.stats.rq_error,
            false => &host.stats.rq_success,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    fn count_time(&self, begun: Instant) {
        let elapsed = clock::now().saturating_duration_since(begun).as_millis();
        let elapsed = u64::try_from(elapsed).unwrap_or(u64::MAX);
        let stats = self.stats();
        stats.upstream_rq_time.record(elapsed);
        match self.call.envoy_headers {
            EnvoyHeaders::Skipped => stats.external_upstream_rq_time.record(elapsed),
            EnvoyHeaders::Internal | EnvoyHeaders::InternalAndForwarded => {
                stats.internal_upstream_rq_time.record(elapsed);
            }
        }
    }
}

/// What is heard, besides messages.
enum Heard {
    Head(ResponseHead),
    End,
}

/// Why nothing more is heard.
enum Unheard {
    Reset(UpstreamReset),
    TooLarge,
    NoMessage,
}

/// What was passed on of what came.
enum Passed {
    All,
    /// There is no room for more.
    Some,
    ToNobody,
}

/// A call under way.
struct Talking {
    talk: Talk,
    /// All of the request left.
    is_told: bool,
    /// Nothing more comes.
    is_over: bool,
    /// What came and was not passed on: the beginning of a message, or several that there is no room for.
    heard: BytesMut,
    /// How long a message may be, with what stands before it.
    limit: usize,
}

impl Talking {
    fn poll(&mut self, up: &mut Upstream, cx: &mut Context<'_>) -> Poll<Result<Heard, Unheard>> {
        if let Poll::Ready(Err(reset)) = self.poll_tell(up, cx) {
            return Poll::Ready(Err(Unheard::Reset(reset)));
        }
        if let Poll::Ready(Err(reset)) = up.poll_flush(cx) {
            return Poll::Ready(Err(Unheard::Reset(reset)));
        }
        loop {
            match self.pass_on()? {
                Passed::All if self.is_over => return Poll::Ready(Ok(Heard::End)),
                Passed::All => {}
                Passed::Some => return Poll::Pending,
                Passed::ToNobody => return Poll::Ready(Ok(Heard::End)),
            }
            match ready!(up.poll_event(cx)).map_err(Unheard::Reset)? {
                UpstreamEvent::Informational(_) => {}
                UpstreamEvent::Head { head, end, is_upgrade } => {
                    self.is_over = end || is_upgrade || head.status != StatusCode::OK;
                    return Poll::Ready(Ok(Heard::Head(head)));
                }
                UpstreamEvent::Body(BodyEvent::Data(data)) => self.heard.extend_from_slice(&data),
                UpstreamEvent::Last(data) => {
                    self.heard.extend_from_slice(&data);
                    self.is_over = true;
                }
                UpstreamEvent::Body(BodyEvent::Trailers(_) | BodyEvent::End) => self.is_over = true,
            }
        }
    }

    /// Passes on what there is to be told, as long as there is room.
    fn poll_tell(&mut self, up: &mut Upstream, cx: &mut Context<'_>) -> Poll<Result<(), UpstreamReset>> {
        while !self.is_told {
            if let Err(reset) = ready!(up.poll_room(cx)) {
                return Poll::Ready(Err(reset));
            }
            match ready!(self.talk.outgoing.poll_recv(cx)) {
                Some(message) => up.data(message),
                None => {
                    up.finish(None);
                    self.is_told = true;
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Passes on what came, as long as there is room: what is read next waits for that.
    fn pass_on(&mut self) -> Result<Passed, Unheard> {
        loop {
            if self.talk.incoming.is_closed() {
                return Ok(Passed::ToNobody);
            }
            if self.talk.incoming.capacity() == 0 {
                return Ok(Passed::Some);
            }
            let Some(message) = take_message(&mut self.heard).map_err(|_| Unheard::NoMessage)? else { break };
            if message.len() > self.limit {
                return Err(Unheard::TooLarge);
            }
            // (There is room, and nobody else sends.)
            let _ = self.talk.incoming.try_send(message);
        }
        if self.heard.len() > self.limit { Err(Unheard::TooLarge) } else { Ok(Passed::All) }
    }
}
