//! Connections that are closed because there is too much to do (`envoy.load_shed_points.tcp_proxy_*`).

use std::task::Context;

use super::copy::Direction;
use super::proxy::Down;
use crate::local::overload::Point;

impl Down {
    /// Whether `point` may shed the connection, and does.
    pub(super) fn is_shed(&self, point: Point) -> bool {
        self.overload.as_ref().is_some_and(|overload| overload.sheds(point, || fastrand::u64(..)))
    }
}

/// When what the client sends may have its connection shed: once for all that is there.
pub(super) struct Shedding<'d> {
    down: Option<&'d Down>,
    /// How much was on its way when it was looked at last.
    looked_at: Option<u64>,
}

impl<'d> Shedding<'d> {
    pub(super) fn new(down: &'d Down) -> Self {
        let is_watched = down.overload.as_ref().is_some_and(|overload| overload.watches(Point::TcpData));
        Self { down: is_watched.then_some(down), looked_at: None }
    }

    /// Whether the connection is to be closed for what is there, of which nothing was read yet.
    pub(super) fn sheds(&mut self, to_upstream: &Direction, cx: &mut Context<'_>) -> bool {
        let Some(down) = self.down else { return false };
        let (moved, client) = (Some(to_upstream.moved()), &down.connection);
        if self.looked_at == moved || to_upstream.is_done() || client.poll_readable(cx).is_pending() {
            return false;
        }
        // (A socket may be said to be readable although all was read; what inspectors gave back, or passed filters, is there.)
        if client.replay_is_empty() && !client.is_guarded() && !client.is_readable() {
            return false;
        }
        self.looked_at = moved;
        down.is_shed(Point::TcpData)
    }
}
