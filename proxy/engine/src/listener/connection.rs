//! An accepted connection on its way: listener filters, the choice of a filter chain, its policies, its terminal filter.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use proxy_core::extension::access_log::LogEntry;
use proxy_core::response_flag::ResponseFlag;
use proxy_core::stream_info::{ConnectionInfo, StreamInfo};

use super::accept::{ActiveListener, Counted, Listeners, Place};
use super::admission::{Admission, end_of_client, greet, stream_of};
use super::ahead::{Ahead, Begun};
use super::config::{FilterChain, HttpTerminal, Listener, Terminal};
use super::inspect::{Inspection, Refused, refuse, restore_destination};
use crate::context::Context;
use crate::http::connection::ConnectionCx;
use crate::local::contain::drill;
use crate::local::drain::{Closed, DrainHandle};
use crate::local::reduced::{Reducible, reduced};
use crate::local::timers::Timer;
use crate::net::connection::{Connection, Socket, next_id};
use crate::net::gate::{Gate, Guard};
use crate::net::socket;
use crate::tcp::proxy::Down;
use crate::tls::Ends;
use crate::tls::server::{HandshakeFailed, ServerTls};

/// Serves a connection that `listener` accepted, until it ends.
///
/// What HTTP needs while it waits for requests is small and is kept here; what is needed until then, and what other terminal
/// filters need, is not, and is boxed.
pub(super) async fn serve(
    listeners: Rc<Listeners>,
    listener: Rc<ActiveListener>,
    // Boxed, as what follows is: a value that is handed from future to future has a place in each of them.
    connection: Box<Connection>,
    mut place: Place,
) {
    if let Some(rest) = Box::pin(begin(listeners, listener, connection, &mut place)).await {
        let drain = rest.cx.drain.clone();
        let serving = pin!(crate::http::connection::serve(rest.cx, rest.connection));
        UntilClosed::new(&drain, serving).await;
        drop(rest.counted);
    }
}

/// An HTTP connection that nobody but the connection manager keeps account of.
struct Http {
    cx: Rc<ConnectionCx>,
    connection: Box<Connection>,
    counted: Counted,
}

/// Serves a connection until it ends, or until only HTTP is left to be served.
async fn begin(
    listeners: Rc<Listeners>,
    listener: Rc<ActiveListener>,
    connection: Box<Connection>,
    place: &mut Place,
) -> Option<Http> {
    let config = listener.config();
    let mut info = Rc::new(describe(&connection, &config)?);
    let is_last = !config.use_original_dst;
    let mut ahead = inspect(&listeners, &listener, &connection, &mut info, is_last).await.ok()?;
    if config.use_original_dst
        && let Some(known) = Rc::get_mut(&mut info)
        && !known.local_restored
    {
        // As if the original_dst filter stood last among the listener filters.
        restore_destination(&connection, known);
    }
    let other = match config.use_original_dst && info.local_restored {
        true => listeners.bound_to(&info.local).filter(|other| !Rc::ptr_eq(other, &listener)),
        false => None,
    };
    let target = match other {
        Some(other) => {
            place.move_to(&other);
            // The listener that it is handed over to looks at it itself.
            ahead = inspect(&listeners, &other, &connection, &mut info, true).await.ok()?;
            other
        }
        None => listener,
    };
    serve_on(&listeners, &target, connection, info, ahead).await
}

/// Has the listener filters of `listener` look at a connection; one that they close is logged, and over.
async fn inspect(
    listeners: &Listeners,
    listener: &Rc<ActiveListener>,
    connection: &Connection,
    info: &mut Rc<ConnectionInfo>,
    is_last: bool,
) -> Result<Option<Ahead>, Refused> {
    let config = listener.config();
    if config.filters.is_empty() {
        return Ok(None);
    }
    let Some(known) = Rc::get_mut(info) else { return Ok(None) };
    let inspection = Inspection { context: &listeners.context, listener, connection, is_last };
    let inspected = Box::pin(inspection.run(&config, known)).await;
    if inspected.is_err() {
        log(&config, &mut stream_of(info.clone()));
    }
    inspected
}

fn describe(connection: &Connection, config: &Listener) -> Option<ConnectionInfo> {
    let (local, remote) = match connection.socket() {
        Socket::Tcp(tcp) => (socket::local_address(tcp).ok()?, socket::peer_address(tcp).ok()?),
        Socket::Unix(unix) => (socket::local_address(unix).ok()?, socket::peer_address(unix).ok()?),
    };
    let info = ConnectionInfo::new(remote, local, config.name.clone());
    Some(ConnectionInfo { id: next_id(), listener_metadata: config.metadata.clone(), ..info })
}

/// Serves the connection on `listener`, as [`begin`] does: the one that accepted it, or the one it was handed over to.
async fn serve_on(
    listeners: &Rc<Listeners>,
    listener: &Rc<ActiveListener>,
    mut connection: Box<Connection>,
    mut info: Rc<ConnectionInfo>,
    ahead: Option<Ahead>,
) -> Option<Http> {
    let config = listener.config();
    if let (Some(keepalive), Socket::Tcp(tcp)) = (&config.keepalive, connection.socket()) {
        let _ = keepalive.apply(tcp);
    }
    let found = config.matcher.find(&info).and_then(|index| listener.chain(index));
    let Some((chain, drain)) = found else {
        config.stats.here().no_filter_chain_match.inc();
        refuse(&connection, !connection.replay_is_empty());
        let mut stream = stream_of(info);
        stream.flags.set(ResponseFlag::NoRouteFound);
        stream.details = Some("filter_chain_not_found".into());
        log(&config, &mut stream);
        return None;
    };
    let counted = listener.count();
    if let Some(info) = Rc::get_mut(&mut info) {
        config.serves(&chain, info);
    }
    if let Some(tls) = &chain.tls
        && !secure(tls, &config, chain.handshake_timeout, &mut connection, &mut info, &drain).await
    {
        if let Terminal::Http(http) = &chain.terminal {
            crate::http::connection::count_unshaken(&http.manager, &info);
        }
        let mut stream = stream_of(info);
        log_refused(&chain, &config, &mut stream);
        return None;
    }
    // HTTP keeps account of each of its streams; the connection itself needs one for its policies and its log only.
    let is_http = matches!(chain.terminal, Terminal::Http(_));
    let is_accounted = !is_http || !chain.policies.is_empty() || !config.access_logs.is_empty();
    let (mut policies, mut sought) = (Vec::new(), None);
    let (info, mut stream) = match is_accounted {
        true => {
            let begun = Box::pin(begun(&listeners.context, ahead, &chain, info, &connection, &drain)).await;
            sought = begun.sought;
            policies = begun.admission.policies;
            let mut stream = begun.admission.stream;
            if !begun.admission.is_granted {
                log_refused(&chain, &config, &mut stream);
                return None;
            }
            (stream.connection.clone(), Some(Rc::new(RefCell::new(*stream))))
        }
        false => (info, None),
    };
    // Where the TCP proxy ends the chain, a client that will say no more is still heard out.
    let keeps_half = matches!(chain.terminal, Terminal::Tcp(_));
    let traffic = (is_http && !config.access_logs.is_empty()).then(|| connection.count());
    let Ok(greeted) = greet(&mut policies, &connection, &drain).await else {
        stream.iter().for_each(|stream| log_refused(&chain, &config, &mut stream.borrow_mut()));
        return None;
    };
    let mut gate = Gate::of(&mut policies, config.buffer_limit, keeps_half);
    if let (Some(stream), Terminal::Http(_) | Terminal::Extension(_)) = (&stream, &chain.terminal)
        && let Some(gate) = gate.take()
    {
        connection.guard(Guard::new(gate, stream.clone()));
    }
    let closed = match (&chain.terminal, &mut stream) {
        (Terminal::Http(http), _) => {
            let cx = http_context(listeners, http, &config, drain.clone(), info);
            if stream.is_none() {
                return Some(Http { cx, connection, counted });
            }
            UntilClosed::new(&drain, pin!(crate::http::connection::serve(cx, connection))).await
        }
        (Terminal::Tcp(tcp), Some(stream)) => {
            drill("tcp", &listeners.context.env.runtime);
            let end = end_of_client(&chain, &stream.borrow().connection);
            let overload = listeners.overload_of(&config).cloned();
            let (connection, buffer_limit) = (*connection, config.buffer_limit);
            let down = Down { connection, buffer_limit, gate, greeted, end, overload };
            Box::pin(tcp.serve(&listeners.context, down, stream, &mut policies, sought.take(), &drain)).await;
            None
        }
        (Terminal::Extension(terminal), Some(stream)) => {
            UntilClosed::new(&drain, pin!(terminal.serve(connection, stream))).await
        }
        (Terminal::Tcp(_) | Terminal::Extension(_), None) | (Terminal::None, _) => None,
    };
    if let Some(stream) = &stream {
        let stream = &mut *stream.borrow_mut();
        if let Some(reason) = closed {
            stream.local_close_reason = Some(reason.into());
        }
        if let Some(traffic) = traffic {
            stream.bytes_received = traffic.received.get();
            stream.bytes_sent = traffic.sent.get();
        }
        for policy in &mut policies {
            policy.on_complete(stream);
        }
        log(&config, stream);
    }
    drop(counted);
    None
}

fn http_context(
    listeners: &Listeners,
    http: &HttpTerminal,
    config: &Listener,
    drain: Rc<DrainHandle>,
    info: Rc<ConnectionInfo>,
) -> Rc<ConnectionCx> {
    Rc::new(ConnectionCx {
        shared: listeners.context.clone(),
        overload: listeners.overload_of(config).cloned(),
        manager: http.manager.clone(),
        info,
        listener_stats: http.listener_stats.clone(),
        router_stats: http.router_stats.clone(),
        drain,
        is_inbound: config.is_inbound(),
        modify_only: config.modify_only,
        buffer_limit: config.buffer_limit,
    })
}

/// Does the TLS handshake; `false` if the connection is to be closed.
///
/// The futures of a handshake are large and gone when it is done: they are boxed.
async fn secure(
    tls: &ServerTls,
    config: &Listener,
    timeout: Option<Duration>,
    connection: &mut Connection,
    info: &mut Rc<ConnectionInfo>,
    drain: &DrainHandle,
) -> bool {
    let ends = Ends { local: info.local.ip(), remote: info.remote.ip() };
    let (began, mut timer) = (Instant::now(), Timer::default());
    let shaken = Box::pin(async {
        let deadline = poll_fn(|task| {
            let Some(timeout) = timeout else { return Poll::Pending };
            timer.poll(task, began + reduced(Reducible::TransportConnect, timeout))
        });
        tokio::select! {
            biased;
            shaken = tls.accept(connection, ends) => Ok(shaken),
            _ = drain.closed() => Err(""),
            () = deadline => Err("transport socket timeout was reached"),
        }
    })
    .await;
    let Some(info) = Rc::get_mut(info) else { return false };
    info.secure = true;
    match shaken {
        Ok(Ok(session)) => {
            info.tls = Some(Box::new(session));
            return true;
        }
        Ok(Err(HandshakeFailed(reason))) => {
            info.transport_failure = Some(reason).filter(|reason| !reason.is_empty())
        }
        Err("") => {}
        Err(late) => {
            config.stats.here().downstream_cx_transport_socket_connect_timeout.inc();
            info.transport_failure = Some(late.to_owned());
        }
    }
    false
}

/// Serves until that ends, or until the end of a drain, whose reason is told; what serves is polled then, and may end itself.
struct UntilClosed<'a, S> {
    drain: &'a DrainHandle,
    closed: Closed<'a>,
    serving: Pin<&'a mut S>,
}

impl<'a, S: Future<Output = ()>> UntilClosed<'a, S> {
    fn new(drain: &'a DrainHandle, serving: Pin<&'a mut S>) -> Self {
        Self { drain, closed: drain.closed(), serving }
    }
}

impl<S: Future<Output = ()>> Future for UntilClosed<'_, S> {
    type Output = Option<&'static str>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> Poll<Self::Output> {
        match self.serving.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(self.drain.reason()),
            Poll::Pending => Pin::new(&mut self.closed).poll(cx).map(Some),
        }
    }
}

/// Has the policies of `chain` look at a connection, unless that was begun ahead; for as long as the client is there, and the drain not over.
async fn begun(
    context: &Rc<Context>,
    ahead: Option<Ahead>,
    chain: &Arc<FilterChain>,
    info: Rc<ConnectionInfo>,
    connection: &Connection,
    drain: &DrainHandle,
) -> Begun {
    let end = end_of_client(chain, &info);
    if let Some(ahead) = ahead {
        let begun = tokio::select! {
            biased;
            begun = ahead.turns_out(chain, &info) => begun,
            _ = drain.closed() => None,
            () = connection.left(end) => None,
        };
        if let Some(begun) = begun {
            return begun;
        }
    }
    let ended = async {
        tokio::select! {
            reason = drain.closed() => Some(reason.into()),
            () = connection.left(end) => None,
        }
    };
    Begun { admission: Admission::of(context, chain, info, ended).await, sought: None }
}

/// Logs a connection that the terminal filter of its chain never saw.
fn log_refused(chain: &FilterChain, config: &Listener, stream: &mut StreamInfo) {
    if let Terminal::Tcp(tcp) = &chain.terminal {
        tcp.refuse(stream);
    }
    log(config, stream);
}

fn log(config: &Listener, stream: &mut StreamInfo) {
    if config.access_logs.is_empty() {
        return;
    }
    stream.end = Some(Instant::now());
    let entry = LogEntry::of(stream);
    for log in &config.access_logs {
        log.log(&entry);
    }
}
