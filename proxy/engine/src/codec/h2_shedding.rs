//! HTTP/2 connections that are told to go when something comes on them while there is too much to do
//! (`envoy.load_shed_points.http2_server_go_away_*`).

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use crate::local::overload::{Overload, Point};

/// What a connection does about it, shared by who reads and who serves.
#[derive(Debug)]
pub(crate) struct Shedding {
    overload: Arc<Overload>,
    /// The codec has begun: before, nobody can be told to go.
    has_begun: Cell<bool>,
    goes_away: Cell<bool>,
    is_closed: Cell<bool>,
}

impl Shedding {
    /// Of a connection for which `overload` may do anything.
    pub(crate) fn new(overload: Option<&Arc<Overload>>) -> Option<Rc<Self>> {
        let points = [Point::GoAway, Point::GoAwayAndClose];
        let overload = overload.filter(|overload| points.iter().any(|point| overload.watches(*point)))?;
        Some(Rc::new(Self {
            overload: overload.clone(),
            has_begun: Cell::new(false),
            goes_away: Cell::new(false),
            is_closed: Cell::new(false),
        }))
    }

    /// What comes from now on counts.
    pub(crate) fn begin(&self) {
        self.has_begun.set(true);
    }

    /// Something came: whether it is not looked at, nor anything after it.
    pub(super) fn sheds(&self) -> bool {
        let sheds = |point| self.has_begun.get() && self.overload.sheds(point, || fastrand::u64(..));
        if sheds(Point::GoAwayAndClose) {
            self.is_closed.set(true);
        } else if sheds(Point::GoAway) {
            self.goes_away.set(true);
        }
        self.is_closed.get()
    }

    /// Whether the client is to be told that the connection ends with what is on it.
    pub(crate) fn goes_away(&self) -> bool {
        self.goes_away.get()
    }

    /// Whether nothing more is read, and the connection is to end.
    pub(crate) fn is_closed(&self) -> bool {
        self.is_closed.get()
    }
}
