//! A connection to a host that is begun while its client says nothing: of the two, who speaks first decides.
//!
//! Listener filters that look at a client's first bytes wait for them, and the client of a mail server or a database waits for its
//! server's greeting. Where it is known what becomes of a connection of which nothing is found out, that may begin before the wait
//! is over. Nothing is decided by it but by the host's first word: a host that refuses or hangs up, and a policy that closes the
//! connection, leave the client to be waited for. Envoy has no such thing. The design, and what it costs: ADR 9.

use std::future::{Future, pending, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use proxy_core::stream_info::ConnectionInfo;

use super::accept::ActiveListener;
use super::admission::Admission;
use super::config::{FilterChain, Terminal};
use crate::context::Context as WorkerContext;
use crate::tcp::proxy::Sought;

/// The transport of connections of which nothing was found out.
const RAW_BUFFER: &str = "raw_buffer";

/// How long a client says nothing before a host is sought for it: those that speak first mostly do so with the last packet of
/// the handshake or within a few milliseconds (measured: ADR 9), and each would cost its host a connection that nobody uses.
pub(super) const SILENCE: Duration = Duration::from_millis(10);

/// How long a client says nothing before a host's greeting counts where TLS may be spoken to the same host: a ClientHello that was lost
/// and sent again must not be too late, for the connection would be taken for one without TLS.
const SILENCE_WITHOUT_TLS: Duration = Duration::from_millis(500);

/// What was begun for a connection, as one of which nothing was found out.
pub(super) struct Ahead {
    chain: Arc<FilterChain>,
    state: State,
    /// From when on a greeting counts.
    pub(super) counts_from: Instant,
}

enum State {
    Beginning(Pin<Box<dyn Future<Output = Begun>>>),
    Begun(Begun),
}

/// What the chain made of the connection so far.
pub(super) struct Begun {
    /// What its policies made of it.
    pub(super) admission: Admission,
    /// What came of seeking a host, if one was sought and that may count.
    pub(super) sought: Option<Box<Sought>>,
}

impl Ahead {
    /// Begins what a connection of which no more than `info` is found out is in for, if that is to be carried as it is.
    pub(super) fn begin(
        context: &Rc<WorkerContext>,
        listener: &ActiveListener,
        info: &ConnectionInfo,
    ) -> Option<Self> {
        let config = listener.config();
        if has_found_out(info) {
            return None;
        }
        let (chain, _) = config.matcher.find_so_far(info).and_then(|index| listener.chain(index))?;
        let Terminal::Tcp(tcp) = &chain.terminal else { return None };
        if chain.tls.is_some() || chain.looks_once {
            return None;
        }
        let mut info = info.clone();
        info.transport_protocol = "tls";
        let with_tls = config.matcher.find_so_far(&info).and_then(|index| listener.chain(index));
        let may_be_tls = with_tls.is_some_and(|(chain, _)| chain.tls.is_some());
        let patience = if may_be_tls { SILENCE_WITHOUT_TLS - SILENCE } else { Duration::ZERO };
        info.transport_protocol = RAW_BUFFER;
        config.serves(&chain, &mut info);
        let (context, tcp, of_chain) = (context.clone(), tcp.clone(), chain.clone());
        let beginning = Box::pin(async move {
            // (Who looks at the client meanwhile sees it leave, and ends this.)
            let admission = Admission::of(&context, &of_chain, Rc::new(info), pending()).await;
            let sought = match admission.is_granted {
                true => Some(tcp.seek(&context, admission.stream.connection.clone()).await),
                false => None,
            };
            Begun { admission, sought }
        });
        let counts_from = Instant::now() + patience;
        Some(Self { chain, state: State::Beginning(beginning), counts_from })
    }

    /// Goes on as far as there is a connection to a host, or will be none. The host is not listened to.
    pub(super) fn poll_begun(&mut self, task: &mut Context<'_>) -> Poll<&mut Begun> {
        if let State::Beginning(beginning) = &mut self.state {
            self.state = State::Begun(ready!(beginning.as_mut().poll(task)));
        }
        match &mut self.state {
            State::Begun(begun) => Poll::Ready(begun),
            State::Beginning(_) => Poll::Pending,
        }
    }

    /// Ready when the host spoke. That it refused or hung up says nothing.
    pub(super) fn poll_greeting(&mut self, task: &mut Context<'_>) -> Poll<()> {
        let begun = ready!(self.poll_begun(task));
        if let Some(sought) = &begun.sought {
            if ready!(sought.poll_greeting(task)) {
                return Poll::Ready(());
            }
            begun.sought = None;
        }
        Poll::Pending
    }

    /// For the connection that turned out to be for `chain`, as one of which `info` is known: nothing, if that makes it another
    /// than it was begun for. What was begun is closed then.
    pub(super) async fn turns_out(
        mut self,
        chain: &Arc<FilterChain>,
        info: &Rc<ConnectionInfo>,
    ) -> Option<Begun> {
        if !Arc::ptr_eq(&self.chain, chain) {
            return None;
        }
        poll_fn(|task| self.poll_begun(task).map(|_| ())).await;
        let State::Begun(mut begun) = self.state else { return None };
        if has_found_out(info) {
            // Policies would have seen it; who carries bytes does not care.
            if !chain.policies.is_empty() {
                return None;
            }
            begun.admission.stream.connection = info.clone();
        }
        Some(begun)
    }
}

/// Whether inspectors found out anything about a connection.
fn has_found_out(info: &ConnectionInfo) -> bool {
    info.transport_protocol != RAW_BUFFER
        || info.server_name.is_some()
        || !info.application_protocols.is_empty()
}
