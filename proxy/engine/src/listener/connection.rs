//! An accepted connection on its way: listener filters, the choice of a filter chain, its policies, its terminal filter.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use proxy_core::address::Address;
use proxy_core::extension::access_log::{LogEntry, LogType};
use proxy_core::extension::http_filter::Engine;
use proxy_core::extension::listener_filter::{ListenerStep, Socket as ListenerSocket};
use proxy_core::extension::network_filter::{ConnectionStep, ConnectionVerdict, NetworkFilter};
use proxy_core::response_flag::ResponseFlag;
use proxy_core::stream_error::Details;
use proxy_core::stream_info::{ConnectionInfo, StreamInfo};

use super::accept::{ActiveListener, Listeners, Place};
use super::config::{FilterChain, Listener, Terminal};
use crate::context::Context;
use crate::http::connection::ConnectionCx;
use crate::local::clock;
use crate::local::contain::{Finally, drill};
use crate::local::drain::DrainHandle;
use crate::local::timers::Timer;
use crate::net::connection::{Connection, Socket, next_id};
use crate::net::gate::{Gate, Guard};
use crate::net::socket;
use crate::tls::Ends;
use crate::tls::server::{HandshakeFailed, ServerTls};

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

/// Serves a connection that `listener` accepted, until it ends.
pub(super) async fn serve(
    listeners: Rc<Listeners>,
    listener: Rc<ActiveListener>,
    // Boxed, as what follows is: a value that is handed from future to future has a place in each of them.
    connection: Box<Connection>,
    mut place: Place,
) {
    let config = listener.config();
    let Some(mut info) = describe(&connection, &config).map(Rc::new) else { return };
    if let Some(known) = Rc::get_mut(&mut info) {
        let passed = config.filters.is_empty() || {
            let stats = config.stats.here();
            stats.downstream_pre_cx_active.inc();
            let _active = Finally(|| stats.downstream_pre_cx_active.dec());
            drill("inspect", &listeners.context.env.runtime);
            Box::pin(inspect(&config, &connection, known)).await
        };
        if passed && config.use_original_dst && !known.local_restored {
            // As if the original_dst filter stood last among the listener filters.
            restore_destination(&View(&connection), known);
        }
        if !passed {
            log(&config, &mut stream_of(info));
            return;
        }
    }
    let target = match config.use_original_dst && info.local_restored {
        true => listeners.bound_to(&info.local).unwrap_or(listener),
        false => listener,
    };
    place.move_to(&target);
    Box::pin(serve_on(&listeners, &target, connection, info)).await;
}

fn describe(connection: &Connection, config: &Listener) -> Option<ConnectionInfo> {
    let (local, remote) = match connection.socket() {
        Socket::Tcp(tcp) => (socket::local_address(tcp).ok()?, socket::peer_address(tcp).ok()?),
        Socket::Unix(unix) => (socket::local_address(unix).ok()?, socket::peer_address(unix).ok()?),
    };
    let info = ConnectionInfo::new(remote, local, config.name.clone());
    Some(ConnectionInfo { id: next_id(), listener_metadata: config.metadata.clone(), ..info })
}

fn restore_destination(socket: &View<'_>, info: &mut ConnectionInfo) {
    if let Some(original) = socket.original_destination() {
        info.restore_local(original);
    }
}

/// Runs the listener filters; `false` if the connection is to be closed.
async fn inspect(config: &Listener, connection: &Connection, info: &mut ConnectionInfo) -> bool {
    let mut timer = Timer::default();
    let deadline = config.filters_timeout.map(|timeout| Instant::now() + timeout);
    let mut buffer = BytesMut::new();
    let mut passed = true;
    'filters: for entry in &config.filters {
        if entry.disabled.as_ref().is_some_and(|predicate| predicate.holds(&info.local)) {
            continue;
        }
        let mut filter = entry.config.create();
        loop {
            match filter.on_data(&buffer, &View(connection), info) {
                ListenerStep::Continue { consume } => {
                    buffer.advance(consume.min(buffer.len()));
                    break;
                }
                ListenerStep::Close => {
                    refuse(connection, !buffer.is_empty());
                    return false;
                }
                ListenerStep::NeedData => {}
            }
            let room = filter.max_read_bytes().min(MAX_PEEK).max(buffer.len() + 1);
            buffer.reserve(room - buffer.len());
            let read = poll_fn(|task| {
                if let Poll::Ready(read) = connection.poll_read(task, &mut buffer) {
                    return Poll::Ready(Some(read.unwrap_or(0)));
                }
                match deadline {
                    Some(deadline) => timer.poll(task, deadline).map(|()| None),
                    None => Poll::Pending,
                }
            })
            .await;
            match read {
                Some(0) => {
                    filter.on_close();
                    config.stats.here().downstream_listener_filter_remote_close.inc();
                    return false;
                }
                Some(_) => {}
                None => {
                    config.stats.here().downstream_pre_cx_timeout.inc();
                    passed = config.continue_on_timeout;
                    break 'filters;
                }
            }
        }
    }
    if !passed {
        refuse(connection, !buffer.is_empty());
    }
    connection.replay(buffer);
    passed
}

/// Closes a connection that nobody serves: one that spoke already learns by RST that nobody listened, as it would if
/// its bytes had not been read.
fn refuse(connection: &Connection, spoke: bool) {
    if spoke {
        connection.reset_on_drop();
    }
}

fn stream_of(info: Rc<ConnectionInfo>) -> StreamInfo {
    let start = info.start;
    StreamInfo::new(info, start, clock::wall(start))
}

/// Serves the connection on `listener`: the one that accepted it, or the one it was handed over to.
async fn serve_on(
    listeners: &Rc<Listeners>,
    listener: &Rc<ActiveListener>,
    mut connection: Box<Connection>,
    mut info: Rc<ConnectionInfo>,
) {
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
        return;
    };
    let _counted = listener.count();
    if let Some(info) = Rc::get_mut(&mut info) {
        info.filter_chain = chain.name.clone();
        info.filter_chain_metadata = chain.metadata.clone();
        info.listener = config.name.clone();
        info.listener_metadata = config.metadata.clone();
        info.direction = config.direction as i32;
    }
    if let Some(tls) = &chain.tls
        && !secure(tls, &config, chain.handshake_timeout, &mut connection, &mut info, &drain).await
    {
        if let Terminal::Http(http) = &chain.terminal {
            crate::http::connection::count_unshaken(&http.manager, &info);
        }
        let mut stream = stream_of(info);
        if let Terminal::Tcp(tcp) = &chain.terminal {
            tcp.refuse(&mut stream);
        }
        log(&config, &mut stream);
        return;
    }
    // HTTP keeps account of each of its streams; the connection itself needs one for its policies and its log only.
    let is_http = matches!(chain.terminal, Terminal::Http(_));
    let is_accounted = !is_http || !chain.policies.is_empty() || !config.access_logs.is_empty();
    let mut policies = create_policies(&chain, &listeners.context);
    let (info, mut stream) = match is_accounted {
        true => match Box::pin(admit(&mut policies, stream_of(info), &chain, &config)).await {
            Some(stream) => (stream.connection.clone(), Some(Rc::new(RefCell::new(*stream)))),
            None => return,
        },
        false => (info, None),
    };
    // Where the TCP proxy ends the chain, a client that will say no more is still heard out.
    let keeps_half = matches!(chain.terminal, Terminal::Tcp(_));
    let mut gate = Gate::of(&mut policies, config.buffer_limit, keeps_half);
    if let (Some(stream), Terminal::Http(_) | Terminal::Extension(_)) = (&stream, &chain.terminal)
        && let Some(gate) = gate.take()
    {
        connection.guard(Guard::new(gate, stream.clone()));
    }
    let traffic = (is_http && !config.access_logs.is_empty()).then(|| connection.count());
    let closed = match (&chain.terminal, &mut stream) {
        (Terminal::Http(http), _) => {
            let cx = ConnectionCx {
                shared: listeners.context.clone(),
                manager: http.manager.clone(),
                info,
                listener_stats: http.listener_stats.clone(),
                router_stats: http.router_stats.clone(),
                drain: drain.clone(),
                is_inbound: config.is_inbound(),
                modify_only: config.modify_only,
                buffer_limit: config.buffer_limit,
            };
            let serving = pin!(crate::http::connection::serve(Rc::new(cx), connection));
            until_closed(&drain, serving).await
        }
        (Terminal::Tcp(tcp), Some(stream)) => {
            drill("tcp", &listeners.context.env.runtime);
            if let Some(stream) = Rc::get_mut(stream).map(RefCell::get_mut) {
                let (cx, limit) = (&listeners.context, config.buffer_limit);
                Box::pin(tcp.serve(cx, *connection, limit, stream, gate, &drain)).await;
            }
            None
        }
        (Terminal::Extension(terminal), Some(stream)) => {
            until_closed(&drain, pin!(terminal.serve(connection, stream))).await
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
        log(&config, stream);
    }
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
    let shaken = Box::pin(async {
        let deadline = async {
            match timeout {
                Some(timeout) => tokio::time::sleep(timeout).await,
                None => std::future::pending().await,
            }
        };
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
async fn until_closed(
    drain: &DrainHandle,
    mut serving: Pin<&mut impl Future<Output = ()>>,
) -> Option<&'static str> {
    let mut closed = pin!(drain.closed());
    poll_fn(|cx| match serving.as_mut().poll(cx) {
        Poll::Ready(()) => Poll::Ready(drain.reason()),
        Poll::Pending => closed.as_mut().poll(cx).map(Some),
    })
    .await
}

fn create_policies(chain: &FilterChain, context: &Rc<Context>) -> Vec<Box<dyn NetworkFilter>> {
    if chain.policies.is_empty() {
        return Vec::new();
    }
    let engine: Rc<dyn Engine> = context.clone();
    chain.policies.iter().map(|create| create(&engine)).collect()
}

/// Has the policies of `chain` look at a connection; one that they close is logged, and over.
async fn admit(
    policies: &mut [Box<dyn NetworkFilter>],
    stream: StreamInfo,
    chain: &FilterChain,
    config: &Listener,
) -> Option<Box<StreamInfo>> {
    let mut stream = Box::new(stream);
    if let Err(details) = pass(policies, &mut stream).await {
        stream.local_close_reason.get_or_insert(details);
        if let Terminal::Tcp(tcp) = &chain.terminal {
            tcp.refuse(&mut stream);
        }
        log(config, &mut stream);
        return None;
    }
    // What policies left is the connection's, for all of its streams.
    if let Some(info) = Rc::get_mut(&mut stream.connection) {
        info.filter_state.extend(std::mem::take(&mut stream.filter_state));
    }
    Some(stream)
}

async fn pass(policies: &mut [Box<dyn NetworkFilter>], stream: &mut StreamInfo) -> Result<(), Details> {
    for policy in policies {
        match policy.on_connection(stream) {
            ConnectionStep::Continue => {}
            ConnectionStep::Close(details) => return Err(details),
            ConnectionStep::Wait(future) => match future.await {
                ConnectionVerdict::Continue => {}
                ConnectionVerdict::Close(details) => return Err(details),
            },
        }
    }
    Ok(())
}

fn log(config: &Listener, stream: &mut StreamInfo) {
    if config.access_logs.is_empty() {
        return;
    }
    stream.end = Some(Instant::now());
    let entry = LogEntry {
        request: None,
        response: None,
        response_trailers: None,
        info: stream,
        local_reply_body: "",
        log_type: LogType::NotSet,
    };
    for log in &config.access_logs {
        log.log(&entry);
    }
}
