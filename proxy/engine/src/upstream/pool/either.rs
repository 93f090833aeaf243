//! Connections of which the TLS handshake says whether they are of HTTP/1 or HTTP/2 (`auto_config`): both kinds live in the pool of
//! their host, and a request takes what is there.
//!
//! As in Envoy, requests that come before the first handshake is done wait for it as if it were one of HTTP/2. Where it is not,
//! each makes a connection of its own, as do those that follow, until a handshake says otherwise.
//! Source: Envoy `HttpConnPoolImplMixed`.

use std::pin::pin;
use std::rc::Rc;

use proxy_core::stream_error::UpstreamReset;

use super::connect::{ConnectionGuard, Kind, connect};
use super::exclusive::{Chosen, Closing, Rests as _};
use super::h1::{Http1Lease, Pooled};
use super::h2::{Http2Lease, Shared};
use super::multiplexed::{Attempt, Failure};
use super::preconnect::Ahead;
use super::{HostPool, Sockets};
use crate::local::clock;
use crate::local::contain::contain;
use crate::upstream::circuit_breaker::BreakerPriority;

/// What carries a request.
pub(crate) enum Lease {
    Http1(Http1Lease),
    Http2(Box<Http2Lease>),
}

/// What a connection turned out to be.
enum Made {
    Http1(Box<Pooled>),
    Http2(Rc<Shared>),
}

impl HostPool {
    /// What carries a request to the host, whatever it speaks; with `fresh` no connection of HTTP/1 that was used before.
    ///
    /// Cancel-safe, as those for one protocol are.
    pub(crate) async fn open_either(
        self: &Rc<Self>,
        priority: BreakerPriority,
        fresh: bool,
    ) -> Result<Lease, Failure> {
        let there = || {
            let idle = || self.exclusive.take(self.cluster.http.idle_timeout, clock::now);
            let http1 = |pooled| Lease::Http1(Http1Lease::new(pooled, self, true));
            let http2 = |shared| Lease::Http2(Http2Lease::new(shared, self));
            self.with_room().map(http2).or_else(|| if fresh { None } else { idle().map(http1) })
        };
        let lease = match there() {
            Some(lease) => lease,
            None => {
                let _pending = self.pending(priority)?;
                self.await_either(priority).await.inspect_err(|_| {
                    self.cluster.stats.traffic.here().upstream_rq_pending_failure_eject.inc();
                })?
            }
        };
        match &lease {
            Lease::Http1(_) => self.follow_exclusive(priority, Self::make_either_ahead),
            Lease::Http2(_) => {
                self.follow_multiplexed(priority, |guard, attempt| self.make_either_apart(guard, attempt));
            }
        }
        Ok(lease)
    }

    async fn await_either(self: &Rc<Self>, priority: BreakerPriority) -> Result<Lease, Failure> {
        if !self.speaks_http1.get() {
            let make = |guard, attempt| self.make_either_apart(guard, attempt);
            if let Some(shared) = self.await_room(priority, make).await? {
                return Ok(Lease::Http2(Http2Lease::new(shared, self)));
            }
        }
        // Of who waited for the same handshake one has its connection.
        if let Some(pooled) = self.exclusive.take(self.cluster.http.idle_timeout, clock::now) {
            let reused = pooled.was_used();
            return Ok(Lease::Http1(Http1Lease::new(pooled, self, reused)));
        }
        match self.choose(priority, clock::now).await {
            Chosen::Free(pooled) => Ok(Lease::Http1(Http1Lease::new(pooled, self, true))),
            Chosen::New(guard) => match self.make_either(guard).await? {
                Made::Http1(pooled) => Ok(Lease::Http1(Http1Lease::new(pooled, self, false))),
                Made::Http2(shared) => {
                    self.settle_apart(&shared);
                    Ok(Lease::Http2(Http2Lease::new(shared, self)))
                }
            },
        }
    }

    async fn make_either(self: &Rc<Self>, guard: ConnectionGuard) -> Result<Made, Failure> {
        let mut connected = connect(guard).await?;
        let is_http2 = connected.tls.as_ref().is_some_and(|tls| tls.alpn.as_deref() == Some(b"h2"));
        self.speaks_http1.set(!is_http2);
        if is_http2 {
            connected.guard.turn_out(Kind::Multiplexed);
            return self.handshake(connected).await.map(Made::Http2);
        }
        connected.guard.turn_out(Kind::Exclusive);
        self.cluster.stats.traffic.here().upstream_cx_http1_total.inc();
        Ok(Made::Http1(self.pooled(connected)))
    }

    /// Makes a connection in a task of its own for all who wait for one.
    pub(super) fn make_either_apart(self: &Rc<Self>, guard: ConnectionGuard, attempt: Attempt<Sockets>) {
        let pool = self.clone();
        tokio::task::spawn_local(attempt.run(async move {
            let made = contain(pin!(pool.make_either(guard))).await;
            match made.unwrap_or(Err((UpstreamReset::ConnectFailure, String::new())))? {
                Made::Http2(shared) => Ok(Some(shared)),
                Made::Http1(pooled) => {
                    match pool.draining.get() {
                        true => pooled.count(Closing::Drained),
                        false => pool.exclusive.put(pooled),
                    }
                    Ok(None)
                }
            }
        }));
    }

    /// Makes a connection that nobody asked for, in a task of its own.
    pub(super) fn make_either_ahead(guard: ConnectionGuard, ahead: Ahead<Sockets>) {
        tokio::task::spawn_local(async move {
            let pool = ahead.0.clone();
            match contain(pin!(pool.make_either(guard))).await {
                Some(Ok(Made::Http1(pooled))) => ahead.made(pooled),
                Some(Ok(Made::Http2(shared))) => pool.settle_apart(&shared),
                Some(Err(_)) | None => {}
            }
        });
    }

    /// Has a connection that was not made as one for many told how many streams it takes.
    fn settle_apart(self: &Rc<Self>, shared: &Rc<Shared>) {
        let (pool, shared) = (self.clone(), shared.clone());
        tokio::task::spawn_local(async move {
            shared.settle(pool.max_streams(), pool.cluster.connect_timeout).await;
            pool.multiplexed.room.notify_waiters();
        });
    }
}
