//! The labels of Istio's standard metrics.

use std::borrow::Cow;

use http::StatusCode;
use prost_types::Struct;
use prost_types::value::Kind as ValueKind;
use proxy_core::stream_info::StreamInfo;
use proxy_core::tls::{SanKind, TlsInfo};
use smallvec::SmallVec;

use super::Reporter;
use crate::shared::istio::peer::{DOWNSTREAM, Peer, PeerState};

pub(super) const UNKNOWN: &str = "unknown";
const LATEST: &str = "latest";
/// Clusters that stand for no service.
const PASSING: [&str; 5] = [
    "BlackHoleCluster",
    "PassthroughCluster",
    "InboundPassthroughCluster",
    "InboundPassthroughClusterIpv4",
    "InboundPassthroughClusterIpv6",
];

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Request,
    /// Over gRPC, with its status.
    Call(Option<u32>),
    Connection,
}

/// Labels and their values, in Istio's order.
pub(super) struct Labels<'i> {
    standard: SmallVec<[(&'static str, &'i str); MOST_LABELS]>,
    /// The values of the expressions of the configuration.
    pub(super) computed: Vec<String>,
    is_overflowing: bool,
}

/// How many labels a stream has at most.
const MOST_LABELS: usize = 25;

/// Values of labels that are no texts where they come from.
pub(super) struct Texts {
    code: Option<StatusCode>,
    grpc_status: Cow<'static, str>,
    flags: Cow<'static, str>,
}

impl Texts {
    pub(super) fn of(kind: Kind, info: &StreamInfo) -> Self {
        let grpc_status = match kind {
            Kind::Call(Some(0)) => "0".into(),
            Kind::Call(Some(status)) => status.to_string().into(),
            Kind::Call(None) | Kind::Request | Kind::Connection => "".into(),
        };
        let mut flags = Cow::Borrowed("-");
        for flag in info.flags.iter() {
            flags = match &*flags {
                "-" => flag.short().into(),
                before => format!("{before},{}", flag.short()).into(),
            };
        }
        let code = info.response_code.and_then(|code| StatusCode::from_u16(code).ok());
        Self { code, grpc_status, flags }
    }
}

/// What is known of one side; empty if it is not.
struct Side<'i> {
    workload: &'i str,
    namespace: &'i str,
    principal: &'i str,
    app: &'i str,
    version: &'i str,
    canonical_service: &'i str,
    canonical_revision: &'i str,
    cluster: &'i str,
}

/// The workload that is asked.
pub(super) struct Hosts<'i> {
    /// As it says itself.
    pub(super) asked: Option<&'i Peer>,
    /// As its endpoint says.
    pub(super) endpoint: Option<&'i Peer>,
}

/// The service that is asked.
struct Service<'i> {
    host: &'i str,
    name: &'i str,
    namespace: &'i str,
}

impl<'i> Side<'i> {
    /// This side, of which all is said as the node has it.
    fn own(own: &'i Peer, principal: &'i str) -> Self {
        Self { principal: or(principal, UNKNOWN), ..Self::of(own) }
    }

    fn of(peer: &'i Peer) -> Self {
        Self {
            workload: &peer.workload,
            namespace: &peer.namespace,
            principal: &peer.identity,
            app: &peer.app,
            version: &peer.version,
            canonical_service: &peer.canonical_name,
            canonical_revision: &peer.canonical_revision,
            cluster: &peer.cluster,
        }
    }

    /// The other side: what is not known of it is called so.
    fn other(peer: Option<&'i Peer>, principal: &'i str, namespace: &'i str, revision: &'static str) -> Self {
        let known = |value: fn(&Peer) -> &str| or(peer.map_or("", value), UNKNOWN);
        Self {
            workload: known(|peer| &peer.workload),
            namespace: or(namespace, UNKNOWN),
            principal: or(principal, UNKNOWN),
            app: known(|peer| &peer.app),
            version: known(|peer| &peer.version),
            canonical_service: known(|peer| &peer.canonical_name),
            canonical_revision: or(peer.map_or("", |peer| &peer.canonical_revision), revision),
            cluster: known(|peer| &peer.cluster),
        }
    }
}

fn or<'i>(value: &'i str, otherwise: &'i str) -> &'i str {
    if value.is_empty() { otherwise } else { value }
}

impl<'i> Labels<'i> {
    pub(super) fn of(
        reporter: Reporter,
        own: &'i Peer,
        host: Option<&'i str>,
        (kind, texts): (Kind, &'i Texts),
        info: &'i StreamInfo,
        hosts: &Hosts<'i>,
    ) -> Self {
        let service = service(host, info);
        let mut labels = Labels::empty();
        let policy = match reporter {
            Reporter::Source => {
                let told = hosts.asked;
                let tls = info.upstream.tls.as_deref();
                let principal =
                    tls.and_then(peer_san).or(told.map(|peer| &*peer.identity)).unwrap_or_default();
                let peer = told.or(hosts.endpoint);
                let namespace = namespace(principal, peer);
                labels.put("reporter", "source");
                labels.put_side(&SOURCE, &Side::own(own, tls.and_then(own_san).unwrap_or_default()));
                labels.put_side(&DESTINATION, &Side::other(peer, principal, namespace, LATEST));
                labels.put("destination_service", or(service.host, UNKNOWN));
                labels.put("destination_service_name", or(service.name, UNKNOWN));
                labels.put("destination_service_namespace", or(service.namespace, or(namespace, UNKNOWN)));
                UNKNOWN
            }
            Reporter::Destination | Reporter::Gateway => {
                let tls = info.connection.tls.as_deref();
                let principal = tls.and_then(peer_san).unwrap_or_default();
                let own_principal = tls.and_then(own_san).unwrap_or_default();
                let peer = PeerState::of(info, DOWNSTREAM);
                let source = Side::other(peer, principal, namespace(principal, peer), LATEST);
                let is_gateway = reporter == Reporter::Gateway;
                labels.put("reporter", if is_gateway { "waypoint" } else { "destination" });
                labels.put_side(&SOURCE, &source);
                let (host, name) = match is_gateway {
                    true => {
                        let asked = hosts.asked;
                        let (principal, namespace) =
                            asked.map_or(("", ""), |asked| (&*asked.identity, &*asked.namespace));
                        labels.put_side(&DESTINATION, &Side::other(asked, principal, namespace, UNKNOWN));
                        (or(service.host, UNKNOWN), or(service.name, UNKNOWN))
                    }
                    false => {
                        labels.put_side(&DESTINATION, &Side::own(own, own_principal));
                        (or(service.host, &own.canonical_name), or(service.name, &own.canonical_name))
                    }
                };
                labels.put("destination_service", host);
                labels.put("destination_service_name", name);
                let of_service = if is_gateway { or(service.namespace, UNKNOWN) } else { &own.namespace };
                labels.put("destination_service_namespace", of_service);
                if principal.is_empty() || own_principal.is_empty() { "none" } else { "mutual_tls" }
            }
        };
        labels.put_ending(kind, policy, texts);
        labels
    }

    /// Of streams that are too many to tell apart.
    pub(super) fn overflowing(reporter: Reporter, kind: Kind) -> Labels<'static> {
        let mut labels = Labels { is_overflowing: true, ..Labels::empty() };
        labels.put(
            "reporter",
            match reporter {
                Reporter::Source => "source",
                Reporter::Destination => "destination",
                Reporter::Gateway => "waypoint",
            },
        );
        labels.put("request_protocol", protocol(kind));
        labels
    }

    /// Of these names and values.
    #[cfg(test)]
    pub(super) fn named(labels: &[(&'static str, &'i str)]) -> Self {
        Self { standard: labels.iter().copied().collect(), ..Self::empty() }
    }

    /// Of these values, without their names.
    #[cfg(test)]
    pub(super) fn plain(values: &[&'i str]) -> Self {
        Self { standard: values.iter().map(|value| ("", *value)).collect(), ..Self::empty() }
    }

    fn put_ending(&mut self, kind: Kind, policy: &'static str, texts: &'i Texts) {
        self.put("request_protocol", protocol(kind));
        if kind != Kind::Connection {
            self.put("response_code", texts.code.as_ref().map_or("0", StatusCode::as_str));
            self.put("grpc_response_status", &texts.grpc_status);
        }
        self.put("response_flags", &texts.flags);
        self.put("connection_security_policy", policy);
    }

    fn put(&mut self, label: &'static str, value: &'i str) {
        self.standard.push((label, value));
    }

    fn put_side(&mut self, names: &[&'static str; 8], side: &Side<'i>) {
        let values = [
            side.workload,
            side.canonical_service,
            side.canonical_revision,
            side.namespace,
            side.principal,
            side.app,
            side.version,
            side.cluster,
        ];
        for (name, value) in names.iter().zip(values) {
            self.put(name, value);
        }
    }

    fn empty() -> Self {
        Self { standard: SmallVec::new(), computed: Vec::new(), is_overflowing: false }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.standard.iter().copied()
    }

    /// They are those of streams that are too many to tell apart.
    pub(super) fn is_overflowing(&self) -> bool {
        self.is_overflowing
    }

    /// All values that tell streams apart.
    pub(super) fn values(&self) -> impl Iterator<Item = &str> {
        self.standard.iter().map(|(_, value)| *value).chain(self.computed.iter().map(String::as_str))
    }
}

const SOURCE: [&str; 8] = [
    "source_workload",
    "source_canonical_service",
    "source_canonical_revision",
    "source_workload_namespace",
    "source_principal",
    "source_app",
    "source_version",
    "source_cluster",
];
const DESTINATION: [&str; 8] = [
    "destination_workload",
    "destination_canonical_service",
    "destination_canonical_revision",
    "destination_workload_namespace",
    "destination_principal",
    "destination_app",
    "destination_version",
    "destination_cluster",
];

/// The other labels that streams have, of one kind or another.
const OTHERS: [&str; 9] = [
    "reporter",
    "destination_service",
    "destination_service_name",
    "destination_service_namespace",
    "request_protocol",
    "response_code",
    "grpc_response_status",
    "response_flags",
    "connection_security_policy",
];

/// Whether streams have such a label whatever the configuration says.
pub(super) fn is_standard(label: &str) -> bool {
    SOURCE.iter().chain(&DESTINATION).chain(&OTHERS).any(|known| *known == label)
}

fn protocol(kind: Kind) -> &'static str {
    match kind {
        Kind::Request => "http",
        Kind::Call(_) => "grpc",
        Kind::Connection => "tcp",
    }
}

fn peer_san(tls: &TlsInfo) -> Option<&str> {
    tls.peer_certificate()?.content.as_ref()?.sans_of(&SanKind::Uri).next()
}

fn own_san(tls: &TlsInfo) -> Option<&str> {
    tls.local.as_deref()?.sans_of(&SanKind::Uri).next()
}

/// The namespace in `<domain>/ns/<namespace>/sa/<account>`, or else the one that the peer told.
fn namespace<'i>(principal: &'i str, peer: Option<&'i Peer>) -> &'i str {
    let rest = principal.split_once("/ns/").map(|(_, rest)| rest);
    let said = rest.map(|rest| rest.split('/').next().unwrap_or(rest)).unwrap_or_default();
    or(said, peer.map_or("", |peer| &peer.namespace))
}

pub(super) fn text<'i>(fields: &'i Struct, name: &str) -> &'i str {
    match fields.fields.get(name).and_then(|value| value.kind.as_ref()) {
        Some(ValueKind::StringValue(text)) => text,
        _ => "",
    }
}

/// What the metadata of the host say of its workload, where that is asked for and it does not say it itself.
pub(super) fn endpoint(reporter: Reporter, info: &StreamInfo, asked: Option<&Peer>) -> Option<Peer> {
    if reporter != Reporter::Source || asked.is_some() {
        return None;
    }
    let metadata = info.upstream.host.as_ref()?.metadata();
    Peer::of_endpoint(text(metadata.namespace("istio")?, "workload"))
}

/// The service, by the metadata of the cluster or the host that the request names.
fn service<'i>(host: Option<&'i str>, info: &'i StreamInfo) -> Service<'i> {
    let host = host.unwrap_or_default();
    let service = Service { host, name: host, namespace: "" };
    match info.route_name.as_deref() {
        Some("block_all") => return Service { name: "BlackHoleCluster", ..service },
        Some("allow_any") => return Service { name: "PassthroughCluster", ..service },
        _ => {}
    }
    let Some(cluster) = info.upstream.cluster.as_deref() else { return service };
    if PASSING.contains(&cluster) {
        return Service { name: cluster, ..service };
    }
    let of_cluster =
        info.upstream.cluster_metadata.namespace("istio").and_then(|istio| istio.fields.get("services"));
    let Some(ValueKind::ListValue(services)) = of_cluster.and_then(|services| services.kind.as_ref()) else {
        return service;
    };
    let first = services.values.first().and_then(|service| service.kind.as_ref());
    let Some(ValueKind::StructValue(first)) = first else { return service };
    let host = or(text(first, "host"), host);
    let name = match text(first, "name") {
        "" => host.split('.').next().unwrap_or(host),
        name => name,
    };
    Service { host, name, namespace: text(first, "namespace") }
}
