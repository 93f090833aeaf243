//! The HTTP server of the admin interface: HTTP/1.1 and h2c on one listener, with limits and timeouts.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::convert::Infallible;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, DATE, SERVER, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderValue, StatusCode, Version};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use proxy_core::address::Address;
use proxy_core::extension::access_log::AccessLog;
use proxy_core::matcher::string::StringMatcher;
use proxy_core::stats::groups::{HttpStats, ListenerHttpStats, ListenerStats, PerHandlerStats};
use proxy_core::stats::{Cells, Registry};
use proxy_core::stream_info::ConnectionInfo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Notify;
use tokio::task::{AbortHandle, JoinSet};

use super::access::{self, Entry};
use super::request::Request;
use super::response::{Afterwards, Chunked, Response};
use super::routes;
use super::state::AdminState;

/// With more connections than this one makes room for the next: one that has not asked anything in [`SILENT`], else the one on
/// which no request came for longest.
const MAX_CONNECTIONS: usize = 1024;
/// Who has something to ask has begun by then.
const SILENT: Duration = Duration::from_secs(1);
/// A connection on which no request came for so long is closed, whatever it is about: the last answer was not read in
/// that time, or there is none to wait for.
const IDLE: Duration = Duration::from_secs(300);
/// How long a form may take to arrive.
const FORM_TIME: Duration = Duration::from_secs(30);
/// A form takes no more than this.
const MAX_FORM: usize = 64 * 1024;
/// Bytes of a request head; Envoy's default.
const MAX_HEAD: usize = 60 * 1024;
/// How long the answer to `/quitquitquit` may take to leave.
const FAREWELL: Duration = Duration::from_secs(1);
/// How long to wait when accepting failed, as when descriptors ran out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How the admin interface is configured.
#[derive(Clone, Default)]
pub struct AdminOptions {
    /// Which request targets are allowed (path and query); empty for all (`admin.allow_paths`).
    pub allow_paths: Vec<StringMatcher>,
    /// Where requests are logged (`admin.access_log`).
    pub access_logs: Vec<Arc<dyn AccessLog>>,
}

/// The admin interface. Runs on the main thread; needs a runtime with local tasks.
pub struct AdminServer {
    shared: Rc<Shared>,
}

struct Shared {
    state: Rc<dyn AdminState>,
    options: AdminOptions,
    stats: AdminStats,
    /// Tasks that HTTP/2 connections start; they end with the server.
    streams: RefCell<JoinSet<()>>,
}

struct AdminStats {
    http: Cells<HttpStats>,
    listener: Cells<ListenerStats>,
    handler: Cells<PerHandlerStats>,
    listener_http: Cells<ListenerHttpStats>,
}

impl AdminStats {
    fn new(registry: &std::sync::Arc<Registry>) -> Self {
        Self {
            http: registry.scope("http.admin").cells(),
            listener: registry.scope("listener.admin").cells(),
            handler: registry.scope("listener.admin.main_thread").cells(),
            listener_http: registry.scope("listener.admin.http.admin").cells(),
        }
    }
}

impl AdminServer {
    /// A server for that process.
    pub fn new(state: Rc<dyn AdminState>, options: AdminOptions) -> Self {
        let stats = AdminStats::new(state.stats());
        Self { shared: Rc::new(Shared { state, options, stats, streams: RefCell::default() }) }
    }

    /// Serves a TCP listener until it is dropped, which also ends its connections.
    ///
    /// Cancel-safe: it owns no bytes but those of its connections, which end with it.
    pub async fn serve_tcp(&self, listener: TcpListener) {
        let mut connections = Connections::default();
        loop {
            match listener.accept().await {
                Ok((stream, remote)) => {
                    let local = stream.local_addr().unwrap_or(remote);
                    let info = access::connection(Address::Ip(remote), Address::Ip(local));
                    // An answer in one piece should leave at once; a socket that refuses works all the same.
                    let _ = stream.set_nodelay(true);
                    self.start(&mut connections, stream, info);
                }
                Err(error) => accept_failed(&error).await,
            }
        }
    }

    /// Serves a unix domain socket; otherwise like [`Self::serve_tcp`].
    pub async fn serve_unix(&self, listener: UnixListener) {
        let mut connections = Connections::default();
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let local = stream.local_addr().ok();
                    let path =
                        local.as_ref().and_then(|local| local.as_pathname()).and_then(|path| path.to_str());
                    let info = access::connection(
                        Address::Pipe("".into()),
                        Address::Pipe(path.unwrap_or("").into()),
                    );
                    self.start(&mut connections, stream, info);
                }
                Err(error) => accept_failed(&error).await,
            }
        }
    }

    fn start<S>(&self, connections: &mut Connections, stream: S, info: Rc<ConnectionInfo>)
    where
        S: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        if connections.make_room() {
            self.shared.stats.listener.here().downstream_cx_overflow.inc();
        }
        let last_request = LastRequest::new();
        connections
            .start(last_request.clone(), serve_connection(self.shared.clone(), stream, info, last_request));
    }
}

/// The open connections of a listener; they end with it.
#[derive(Default)]
struct Connections {
    tasks: JoinSet<()>,
    /// Of each, the means to end it and when its last request came.
    open: HashMap<tokio::task::Id, (AbortHandle, Rc<LastRequest>)>,
}

impl Connections {
    /// Ends a connection if there are as many as there may be; whether it did.
    fn make_room(&mut self) -> bool {
        while let Some(ended) = self.tasks.try_join_next_with_id() {
            let id = ended.map_or_else(|error| error.id(), |(id, ())| id);
            self.open.remove(&id);
        }
        if self.open.len() < MAX_CONNECTIONS {
            return false;
        }
        let now = tokio::time::Instant::now();
        let longest = self.open.iter().min_by_key(|(_, (_, last_request))| {
            let at = last_request.at.get();
            let is_silent = !last_request.came.get() && now.duration_since(at) >= SILENT;
            (!is_silent, at)
        });
        let Some((&id, (connection, _))) = longest else { return false };
        connection.abort();
        self.open.remove(&id);
        true
    }

    fn start(&mut self, last_request: Rc<LastRequest>, connection: impl Future<Output = ()> + 'static) {
        let task = self.tasks.spawn_local(connection);
        self.open.insert(task.id(), (task, last_request));
    }
}

/// When the last request of a connection came.
struct LastRequest {
    /// When it did, or when the connection began.
    at: Cell<tokio::time::Instant>,
    /// Whether there was one.
    came: Cell<bool>,
}

impl LastRequest {
    fn new() -> Rc<Self> {
        Rc::new(Self { at: Cell::new(tokio::time::Instant::now()), came: Cell::new(false) })
    }

    fn comes(&self) {
        self.at.set(tokio::time::Instant::now());
        self.came.set(true);
    }
}

async fn accept_failed(error: &std::io::Error) {
    tracing::warn!(%error, "the admin interface could not accept a connection");
    tokio::time::sleep(ACCEPT_PAUSE).await;
}

/// `last_request` is kept at the time of the last request.
async fn serve_connection<S>(
    shared: Rc<Shared>,
    stream: S,
    info: Rc<ConnectionInfo>,
    last_request: Rc<LastRequest>,
) where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let _open = OpenConnection::new(shared.clone());
    let wants_quit = Rc::new(Quit::default());
    let service = hyper::service::service_fn({
        let (shared, wants_quit, last_request) = (shared.clone(), wants_quit.clone(), last_request.clone());
        move |request| {
            last_request.comes();
            answer(shared.clone(), wants_quit.clone(), info.clone(), request)
        }
    });
    let mut builder = auto::Builder::new(LocalTasks(shared.clone()));
    builder.http1().timer(TokioTimer::new()).header_read_timeout(IDLE).max_buf_size(MAX_HEAD);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(IDLE)
        .max_header_list_size(MAX_HEAD as u32)
        .max_concurrent_streams(100);
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let served = tokio::select! {
        served = connection.as_mut() => served,
        () = wants_quit.notify.notified() => {
            connection.as_mut().graceful_shutdown();
            tokio::time::timeout(FAREWELL, connection).await.unwrap_or(Ok(()))
        }
        () = idle(&last_request) => Ok(()),
    };
    if let Err(error) = served {
        tracing::debug!(%error, "an admin connection ended with an error");
    }
    if wants_quit.asked.get() {
        shared.state.quit();
    }
}

/// Waits until no request came for [`IDLE`].
async fn idle(last_request: &LastRequest) {
    loop {
        let end = last_request.at.get() + IDLE;
        if end <= tokio::time::Instant::now() {
            return;
        }
        tokio::time::sleep_until(end).await;
    }
}

/// Set when a request on the connection asked for the end of the process.
#[derive(Default)]
struct Quit {
    asked: Cell<bool>,
    notify: Notify,
}

/// Counts a connection while it is open.
struct OpenConnection {
    shared: Rc<Shared>,
    since: Instant,
}

impl OpenConnection {
    fn new(shared: Rc<Shared>) -> Self {
        let AdminStats { http, listener, handler, .. } = &shared.stats;
        http.here().downstream_cx_total.inc();
        http.here().downstream_cx_active.inc();
        listener.here().downstream_cx_total.inc();
        listener.here().downstream_cx_active.inc();
        handler.here().downstream_cx_total.inc();
        handler.here().downstream_cx_active.inc();
        Self { shared, since: Instant::now() }
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        let AdminStats { http, listener, handler, .. } = &self.shared.stats;
        let length = u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX);
        http.here().downstream_cx_active.dec();
        http.here().downstream_cx_destroy.inc();
        http.here().downstream_cx_length_ms.record(length);
        listener.here().downstream_cx_active.dec();
        listener.here().downstream_cx_destroy.inc();
        listener.here().downstream_cx_length_ms.record(length);
        handler.here().downstream_cx_active.dec();
    }
}

/// Counts a request while it is answered, even if its client goes away.
struct ActiveRequest {
    shared: Rc<Shared>,
    since: Instant,
}

impl ActiveRequest {
    fn new(shared: Rc<Shared>, version: Version) -> Self {
        let http = shared.stats.http.here();
        http.downstream_rq_total.inc();
        http.downstream_rq_active.inc();
        if version == Version::HTTP_2 {
            http.downstream_rq_http2_total.inc();
        } else {
            http.downstream_rq_http1_total.inc();
        }
        Self { shared, since: Instant::now() }
    }

    fn complete(&self, status: StatusCode) {
        let http = self.shared.stats.http.here();
        let listener = self.shared.stats.listener_http.here();
        http.downstream_rq_completed.inc();
        listener.downstream_rq_completed.inc();
        let (in_http, in_listener) = match status.as_u16() / 100 {
            2 => (&http.downstream_rq_2xx, &listener.downstream_rq_2xx),
            3 => (&http.downstream_rq_3xx, &listener.downstream_rq_3xx),
            4 => (&http.downstream_rq_4xx, &listener.downstream_rq_4xx),
            _ => (&http.downstream_rq_5xx, &listener.downstream_rq_5xx),
        };
        in_http.inc();
        in_listener.inc();
    }
}

impl Drop for ActiveRequest {
    fn drop(&mut self) {
        let http = self.shared.stats.http.here();
        http.downstream_rq_active.dec();
        http.downstream_rq_time.record(u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX));
    }
}

async fn answer(
    shared: Rc<Shared>,
    wants_quit: Rc<Quit>,
    info: Rc<ConnectionInfo>,
    request: hyper::Request<Incoming>,
) -> Result<http::Response<Chunked>, Infallible> {
    let active = ActiveRequest::new(shared.clone(), request.version());
    let logs = &shared.options.access_logs;
    let (head, body) = request.into_parts();
    let entry = (!logs.is_empty()).then(|| Entry::new(&head, info));
    let response = respond(&shared, hyper::Request::from_parts(head, body)).await;
    active.complete(response.status);
    if let Some(entry) = entry {
        entry.write(logs, response.status, response.content_type, response.body.len());
    }
    if response.afterwards == Afterwards::Quit {
        wants_quit.asked.set(true);
        wants_quit.notify.notify_one();
    }
    Ok(into_http(response))
}

async fn respond(shared: &Shared, request: hyper::Request<Incoming>) -> Response {
    let (head, body) = request.into_parts();
    let target = head.uri.path_and_query().map_or("/", |target| target.as_str()).to_owned();
    let allowed = &shared.options.allow_paths;
    if !allowed.is_empty() && !allowed.iter().any(|path| path.matches(target.as_bytes())) {
        return Response::error(StatusCode::FORBIDDEN, format!("request to path {target} not allowed"));
    }
    let is_form =
        head.headers.get(CONTENT_TYPE).is_some_and(|kind| kind == "application/x-www-form-urlencoded");
    let form = if is_form {
        match tokio::time::timeout(FORM_TIME, Limited::new(body, MAX_FORM).collect()).await {
            Ok(Ok(form)) => form.to_bytes(),
            Ok(Err(_)) => return Response::error(StatusCode::PAYLOAD_TOO_LARGE, "the form is too large\n"),
            Err(_) => return Response::error(StatusCode::REQUEST_TIMEOUT, "the form took too long\n"),
        }
    } else {
        Bytes::new()
    };
    let request = Request::new(&target, &String::from_utf8_lossy(&form));
    routes::answer(&*shared.state, &head.method, &request)
}

/// With Envoy's headers, in its order.
fn into_http(response: Response) -> http::Response<Chunked> {
    let mut out = http::Response::new(Chunked(Some(response.body)));
    *out.status_mut() = response.status;
    let headers = out.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(response.content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, max-age=0"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if let Ok(date) = HeaderValue::try_from(httpdate::fmt_http_date(SystemTime::now())) {
        headers.insert(DATE, date);
    }
    headers.insert(SERVER, HeaderValue::from_static("envoy"));
    out
}

/// Runs the tasks of HTTP/2 connections on the main thread.
#[derive(Clone)]
struct LocalTasks(Rc<Shared>);

impl<F> hyper::rt::Executor<F> for LocalTasks
where
    F: Future<Output = ()> + 'static,
{
    fn execute(&self, task: F) {
        let mut streams = self.0.streams.borrow_mut();
        while streams.try_join_next().is_some() {}
        streams.spawn_local(task);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "local", start_paused = true)]
    async fn who_asks_nothing_makes_room_first() {
        let mut connections = Connections::default();
        let asked = LastRequest::new();
        asked.comes();
        connections.start(asked.clone(), std::future::pending());
        tokio::time::advance(SILENT).await;
        for _ in 1..MAX_CONNECTIONS {
            connections.start(LastRequest::new(), std::future::pending());
        }
        let is_there = |connections: &Connections| {
            connections.open.values().any(|(_, last_request)| Rc::ptr_eq(last_request, &asked))
        };
        tokio::time::advance(SILENT).await;
        assert!(connections.make_room() && is_there(&connections));
        assert!(!connections.make_room(), "there is room now");
        // where all have asked, who did longest ago goes, not who has just come
        for (_, last_request) in connections.open.values() {
            last_request.comes();
        }
        asked.at.set(asked.at.get() - SILENT);
        connections.start(LastRequest::new(), std::future::pending());
        assert!(connections.make_room() && !is_there(&connections));
    }
}
