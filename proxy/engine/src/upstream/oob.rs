//! Streams on which hosts report their load without being sent requests (`enable_oob_load_report`): one to each host of a cluster.
//!
//! They are the main thread's, over connections that belong to nobody else. A stream that ends, or says nothing for three times the period, is
//! begun anew after a pause; a host that does not know the service is not asked again.
//! Source: gRFC A51; Envoy `source/extensions/load_balancing_policies/common/orca_oob_manager.cc`.

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use prost::Message;
use proxy_core::address::Address;
use proxy_core::callout::grpc::{frame, take_message};
use proxy_core::grpc::status_in;
use proxy_core::head::{BodyEvent, RequestHead, ResponseHead, is_grpc};
use proxy_core::local_reply::grpc_status_of;
use proxy_core::metadata::Metadata;
use proxy_core::retry::BackOff;
use proxy_core::stats::groups::OrcaOobStats;
use proxy_core::stats::{Scope, Shared};
use proxy_core::text::Text;
use proxy_core::upstream::{AskedReports, Host, HostSet};
use tokio::task::AbortHandle;
use tokio::time::Instant;
use xds_api::xds::data::orca::v3::OrcaLoadReport;
use xds_api::xds::service::orca::v3::OrcaLoadReportRequest;

use super::apart::{Apart, Broken};
use super::checks::of_namespace;
use super::cluster::Cluster;
use crate::codec::h2_client::ClientStream;
use crate::codec::upstream::UpstreamEvent;
use crate::local::clock;

const PATH: &str = "/xds.service.orca.v3.OpenRcaService/StreamCoreMetrics";

/// How long a message may be, with what stands before it.
const LONGEST: usize = 64 * 1024 + 5;

/// For so many periods a host may say nothing.
const SILENT_PERIODS: u32 = 3;

/// The longest first pause before a stream is begun anew, and the longest of all.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// `grpc-status` of a method that is not there.
const UNIMPLEMENTED: u32 = 12;

/// What the hosts of a cluster are asked.
#[derive(Debug)]
pub(super) struct Asked {
    reports: AskedReports,
    criteria: Option<Metadata>,
    stats: Shared<OrcaOobStats>,
}

impl Asked {
    pub(super) fn new(reports: &AskedReports, scope: &Scope) -> Self {
        Self {
            reports: reports.clone(),
            criteria: reports.criteria.as_ref().map(of_namespace),
            stats: scope.child("lb_orca_oob").shared(),
        }
    }
}

/// The streams of a cluster. They end when this is dropped.
pub(super) struct Streams {
    cluster: Arc<Cluster>,
    running: HashMap<*const Host, Stream>,
    generation: u64,
}

/// That of one host.
struct Stream {
    /// (What the key points to stays there.)
    _host: Arc<Host>,
    task: AbortHandle,
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Streams {
    /// Those of `cluster`; `None` if its hosts are not asked. Needs a local set.
    pub(super) fn new(cluster: &Arc<Cluster>) -> Option<Self> {
        cluster.asked_reports.as_ref()?;
        Some(Self { cluster: cluster.clone(), running: HashMap::new(), generation: 0 })
    }

    /// Takes the hosts as they are now: new ones are asked, those that are gone no longer.
    pub(super) fn set_hosts(&mut self, hosts: &HostSet) {
        let Some(asked) = &self.cluster.asked_reports else { return };
        if self.generation == hosts.generation() {
            return;
        }
        self.generation = hosts.generation();
        let mut before = std::mem::take(&mut self.running);
        for host in hosts.hosts() {
            let stream = before.remove(&Arc::as_ptr(host)).unwrap_or_else(|| {
                let run = run(self.cluster.clone(), host.clone(), Active::new(&asked.stats));
                Stream { _host: host.clone(), task: tokio::task::spawn_local(run).abort_handle() }
            });
            self.running.insert(Arc::as_ptr(host), stream);
        }
    }
}

/// A host that is asked.
struct Active(Shared<OrcaOobStats>);

impl Active {
    fn new(stats: &Shared<OrcaOobStats>) -> Self {
        stats.active_sessions.inc();
        Self(stats.clone())
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.0.active_sessions.dec();
    }
}

/// How a stream ended.
enum End {
    /// The host does not know the service.
    Unimplemented,
    Failed,
}

impl From<Broken> for End {
    fn from(_: Broken) -> Self {
        Self::Failed
    }
}

impl From<Option<u32>> for End {
    fn from(status: Option<u32>) -> Self {
        match status {
            Some(UNIMPLEMENTED) => Self::Unimplemented,
            Some(_) | None => Self::Failed,
        }
    }
}

/// Hears one host for ever, or until it says that it has nothing to say.
async fn run(cluster: Arc<Cluster>, host: Arc<Host>, active: Active) {
    let Some(asked) = &cluster.asked_reports else { return };
    let mut random = fastrand::Rng::new();
    let new_pauses = || BackOff::up_to(FIRST_PAUSE, LONGEST_PAUSE);
    let mut pauses = new_pauses();
    // (Not all hosts at once.)
    let millis = u64::try_from(asked.reports.period.as_millis()).unwrap_or(u64::MAX);
    tokio::time::sleep(Duration::from_millis(random.u64(..millis.max(1)))).await;
    loop {
        let mut hearing =
            Hearing { cluster: &cluster, host: &host, asked, heard: BytesMut::new(), has_report: false };
        match Box::pin(hearing.run()).await {
            End::Unimplemented => {
                asked.stats.stream_terminated.inc();
                drop(active);
                return;
            }
            End::Failed => asked.stats.stream_failures.inc(),
        }
        if hearing.has_report {
            pauses = new_pauses();
        }
        tokio::time::sleep(pauses.pause(random.u64(..))).await;
    }
}

/// One stream.
struct Hearing<'c> {
    cluster: &'c Cluster,
    host: &'c Arc<Host>,
    asked: &'c Asked,
    /// The beginning of a message.
    heard: BytesMut,
    /// It brought something.
    has_report: bool,
}

impl Hearing<'_> {
    async fn run(&mut self) -> End {
        let address = match (&self.host.address, self.asked.reports.port) {
            (Address::Ip(address), Some(port)) => Address::Ip(SocketAddr::new(address.ip(), port)),
            (address, _) => address.clone(),
        };
        let criteria = self.asked.criteria.as_ref();
        let apart = Apart { cluster: self.cluster, host: self.host, address, criteria, alpn: &[] };
        let patience = Patience(self.asked.reports.period.saturating_mul(SILENT_PERIODS));
        let mut until = patience.end();
        let connecting = Patience(patience.0.min(self.cluster.connect_timeout));
        let connection = match within(connecting.end(), apart.http2()).await {
            Some(Ok(connection)) => connection,
            Some(Err(Broken)) | None => return End::Failed,
        };
        let most = self.cluster.http.max_headers_count as usize;
        let mut stream = ClientStream::new(connection.send.clone(), most, None);
        if stream.request(&self.head(&apart), false).is_err() {
            return End::Failed;
        }
        stream.data(self.request());
        stream.finish(None);
        loop {
            let event = within(
                until,
                poll_fn(|cx| {
                    if let std::task::Poll::Ready(Err(reset)) = stream.poll_flush(cx) {
                        return std::task::Poll::Ready(Err(reset));
                    }
                    stream.poll_event(cx)
                }),
            );
            let Some(Ok(event)) = event.await else { return End::Failed };
            match self.take(event) {
                Ok(false) => {}
                Ok(true) => until = patience.end(),
                Err(end) => return end,
            }
        }
    }

    fn head(&self, apart: &Apart<'_>) -> RequestHead {
        let mut headers = HeaderMap::with_capacity(2);
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        RequestHead {
            method: Method::POST,
            scheme: apart.scheme(),
            authority: self.authority(),
            path: PATH.into(),
            upgrade: None,
            case: None,
            headers,
        }
    }

    fn authority(&self) -> Text {
        let (configured, hostname) = (&*self.asked.reports.authority, &*self.host.hostname);
        match &self.host.address {
            _ if !configured.is_empty() => configured.into(),
            _ if !hostname.is_empty() => hostname.into(),
            address @ Address::Ip(_) => address.to_string().as_str().into(),
            _ => self.cluster.name.as_str().into(),
        }
    }

    fn request(&self) -> Bytes {
        let report_interval = prost_types::Duration::try_from(self.asked.reports.period).ok();
        frame(&OrcaLoadReportRequest { report_interval, request_cost_names: Vec::new() })
    }

    /// Takes what came; whether there was a report in it.
    fn take(&mut self, event: UpstreamEvent) -> Result<bool, End> {
        match event {
            UpstreamEvent::Informational(_) => Ok(false),
            UpstreamEvent::Head { head, end, is_upgrade: _ } => match refusal(&head, end) {
                Some(end) => Err(end),
                None => Ok(false),
            },
            UpstreamEvent::Body(BodyEvent::Data(data)) => self.hear(&data),
            UpstreamEvent::Body(BodyEvent::Trailers(trailers)) => Err(status_in(&trailers).into()),
            UpstreamEvent::Body(BodyEvent::End) => Err(End::Failed),
            UpstreamEvent::Last(data) => {
                self.hear(&data)?;
                Err(End::Failed)
            }
        }
    }

    fn hear(&mut self, data: &[u8]) -> Result<bool, End> {
        self.heard.extend_from_slice(data);
        let mut has_report = false;
        while let Some(message) = take_message(&mut self.heard).map_err(|_| End::Failed)? {
            if message.len() + 5 > LONGEST {
                return Err(End::Failed);
            }
            if message.is_empty() {
                continue;
            }
            let report = OrcaLoadReport::decode(message).map_err(|_| End::Failed)?;
            self.asked.stats.reports_received.inc();
            has_report = true;
            let reported = self.cluster.balancing.reported.as_ref();
            if !reported.is_some_and(|reported| reported.note(self.host, &report, clock::now())) {
                self.asked.stats.report_errors.inc();
            }
        }
        self.has_report |= has_report;
        if self.heard.len() > LONGEST { Err(End::Failed) } else { Ok(has_report) }
    }
}

/// Why a head is all that there is to hear, if it is.
fn refusal(head: &ResponseHead, end: bool) -> Option<End> {
    if end {
        let status = status_in(&head.headers);
        return Some(status.or_else(|| Some(grpc_status_of(head.status))).into());
    }
    let is_good = head.status == StatusCode::OK && is_grpc(&head.headers);
    (!is_good).then(|| Some(grpc_status_of(head.status)).into())
}

/// How long a host may say nothing.
struct Patience(Duration);

impl Patience {
    /// When it ends; never if no clock gets there.
    fn end(&self) -> Option<Instant> {
        Instant::now().checked_add(self.0)
    }
}

/// What `future` comes to until then.
async fn within<T>(until: Option<Instant>, future: impl Future<Output = T>) -> Option<T> {
    match until {
        Some(until) => tokio::time::timeout_at(until, future).await.ok(),
        None => Some(future.await),
    }
}
