//! Listener filters look at a connection before a filter chain is chosen for it.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::{Buf, BytesMut};
use proxy_core::address::Address;
use proxy_core::extension::listener_filter::{ListenerStep, Socket as ListenerSocket};
use proxy_core::stream_info::ConnectionInfo;

use super::accept::ActiveListener;
use super::ahead::{Ahead, SILENCE};
use super::config::Listener;
use crate::context::Context as WorkerContext;
use crate::local::contain::{Finally, drill};
use crate::local::timers::Timer;
use crate::net::connection::{Connection, Socket};
use crate::net::socket;

/// Most bytes that listener filters may look at.
const MAX_PEEK: usize = 64 * 1024;

struct View<'c>(&'c Connection);

impl ListenerSocket for View<'_> {
    fn original_destination(&self) -> Option<Address> {
        match self.0.socket() {
            Socket::Tcp(tcp) => socket::original_destination(tcp),
            Socket::Unix(_) => None,
        }
    }
}

/// Finds out where a redirected connection was meant to go.
pub(super) fn restore_destination(connection: &Connection, info: &mut ConnectionInfo) {
    if let Some(original) = View(connection).original_destination() {
        info.restore_local(original);
    }
}

/// The connection is to be closed.
pub(super) struct Refused;

/// A connection that listener filters look at.
pub(super) struct Inspection<'a> {
    /// What all connections of the worker share.
    pub(super) context: &'a Rc<WorkerContext>,
    /// Whose filters they are.
    pub(super) listener: &'a ActiveListener,
    /// The connection.
    pub(super) connection: &'a Connection,
    /// No other listener takes it afterwards.
    pub(super) is_last: bool,
}

impl Inspection<'_> {
    /// Runs the filters. They may leave a connection to a host behind that was begun meanwhile.
    pub(super) async fn run(
        &self,
        config: &Listener,
        info: &mut ConnectionInfo,
    ) -> Result<Option<Ahead>, Refused> {
        if config.filters.is_empty() {
            return Ok(None);
        }
        let stats = config.stats.here();
        stats.downstream_pre_cx_active.inc();
        let _active = Finally(|| stats.downstream_pre_cx_active.dec());
        drill("inspect", &self.context.env.runtime);
        let mut wait = Wait::new(config.filters_timeout.map(|timeout| Instant::now() + timeout));
        let mut buffer = BytesMut::new();
        let inspected = self.run_filters(config, info, &mut buffer, &mut wait).await;
        if inspected.is_err() {
            refuse(self.connection, !buffer.is_empty());
        }
        self.connection.replay(buffer);
        inspected.map(|()| wait.ahead)
    }

    async fn run_filters(
        &self,
        config: &Listener,
        info: &mut ConnectionInfo,
        buffer: &mut BytesMut,
        wait: &mut Wait,
    ) -> Result<(), Refused> {
        let mut filters = config.filters.iter();
        while let Some(entry) = filters.next() {
            if entry.disabled.as_ref().is_some_and(|predicate| predicate.holds(&info.local)) {
                continue;
            }
            let mut filter = entry.config.create();
            loop {
                match filter.on_data(buffer, &View(self.connection), info) {
                    ListenerStep::Continue { consume } => {
                        buffer.advance(consume.min(buffer.len()));
                        break;
                    }
                    ListenerStep::Close => return Err(Refused),
                    ListenerStep::NeedData => {}
                }
                // What silence comes to is known if all that is left would look at the bytes and do nothing else.
                let may_begin = config.continue_on_timeout
                    && self.is_last
                    && entry.config.is_inspector()
                    && filters.as_slice().iter().all(|entry| entry.config.is_inspector());
                wait.is_silent(buffer.is_empty(), may_begin);
                let room = filter.max_read_bytes().min(MAX_PEEK).max(buffer.len() + 1);
                buffer.reserve(room - buffer.len());
                let waited = poll_fn(|task| {
                    if let Poll::Ready(read) = self.connection.poll_read(task, buffer) {
                        return Poll::Ready(Waited::Read(read.unwrap_or(0)));
                    }
                    wait.poll(task, || Ahead::begin(self.context, self.listener, info))
                });
                match waited.await {
                    Waited::Read(0) => {
                        filter.on_close();
                        config.stats.here().downstream_listener_filter_remote_close.inc();
                        // (The client is gone: there is nobody to reset.)
                        buffer.clear();
                        return Err(Refused);
                    }
                    Waited::Read(_) => {}
                    Waited::Greeted => return Ok(()),
                    Waited::Late => {
                        config.stats.here().downstream_pre_cx_timeout.inc();
                        return if config.continue_on_timeout { Ok(()) } else { Err(Refused) };
                    }
                }
            }
        }
        Ok(())
    }
}

/// What ended a wait.
enum Waited {
    /// The client sent that much; 0 is its end.
    Read(usize),
    /// The host spoke first.
    Greeted,
    /// It took too long.
    Late,
}

/// What is done while a client is waited for.
struct Wait {
    timer: Timer,
    deadline: Option<Instant>,
    /// When a host is sought for a client that said nothing until then.
    begins: Option<Instant>,
    ahead: Option<Ahead>,
    /// The client said nothing yet.
    is_silent: bool,
}

impl Wait {
    fn new(deadline: Option<Instant>) -> Self {
        Self { timer: Timer::default(), deadline, begins: None, ahead: None, is_silent: true }
    }

    /// The wait goes on for a client that is silent or is not, for which a host may be sought or may not.
    fn is_silent(&mut self, is_silent: bool, may_begin: bool) {
        self.is_silent = is_silent;
        self.begins = (is_silent && may_begin && self.ahead.is_none()).then(|| Instant::now() + SILENCE);
    }

    fn poll(&mut self, task: &mut Context<'_>, begin: impl Fn() -> Option<Ahead>) -> Poll<Waited> {
        loop {
            let counts_from = self.ahead.as_ref().filter(|_| self.is_silent).map(|ahead| ahead.counts_from);
            let is_too_early = counts_from.filter(|at| Instant::now() < *at);
            if let Some(ahead) = &mut self.ahead {
                // Who spoke first has decided, even if it is not clear yet what was said.
                match self.is_silent && is_too_early.is_none() {
                    true if ahead.poll_greeting(task).is_ready() => return Poll::Ready(Waited::Greeted),
                    true => {}
                    false => drop(ahead.poll_begun(task)),
                }
            }
            let next = [self.deadline, self.begins, is_too_early].into_iter().flatten().min();
            let Some(next) = next else { return Poll::Pending };
            ready!(self.timer.poll(task, next));
            match self.begins.take_if(|begins| *begins <= next) {
                Some(_) => self.ahead = begin(),
                None if is_too_early.is_some_and(|at| at <= next) => {}
                None => return Poll::Ready(Waited::Late),
            }
        }
    }
}

/// Closes a connection that nobody serves: one that spoke already learns by RST that nobody listened, as it would if
/// its bytes had not been read.
pub(super) fn refuse(connection: &Connection, spoke: bool) {
    if spoke {
        connection.reset_on_drop();
    }
}
