//! Envoy's default tags for everything this proxy counts, each as a function or a token pattern.
//!
//! Left out because their statistics do not exist here: dynamodb, mongo, thrift, redis, udp, client SSL auth,
//! DNS filter, google_grpc.

use super::{Found, Rule};

/// `listener.<a>.`, `server.`, `listener_manager.` or `thread_local_cluster_manager.`, then `worker_<n>.`.
pub(super) const WORKER_ID: &str = "envoy.worker_id";

/// One default extractor.
pub(super) struct Default {
    pub(super) name: &'static str,
    /// The first token of the names it can match; empty for any.
    pub(super) token: &'static str,
    pub(super) rule: Rule,
}

const fn function(name: &'static str, token: &'static str, find: fn(&str) -> Option<Found>) -> Default {
    Default { name, token, rule: Rule::Function(find) }
}

const fn tokens(name: &'static str, token: &'static str, pattern: &'static str) -> Default {
    Default { name, token, rule: Rule::Tokens(pattern) }
}

/// In Envoy's order: where several tags are found in one name, this is the order in which they are shown.
pub(super) const DEFAULTS: &[Default] = &[
    function("envoy.response_code", "", response_code),
    function("envoy.response_code_class", "", response_code_class),
    function("envoy.ssl_cipher", "listener", |name| ssl(name, ".ssl.ciphers", is_word)),
    function("envoy.ssl_curve", "", |name| ssl_anywhere(name, ".ssl.curves", is_word)),
    function("envoy.ssl_sigalg", "", |name| ssl_anywhere(name, ".ssl.sigalgs", is_word)),
    function("envoy.ssl_version", "", |name| ssl_anywhere(name, ".ssl.versions", is_tls_version)),
    function("envoy.tls_certificate", "", tls_certificate),
    function("envoy.ssl_cipher_suite", "cluster", cluster_cipher),
    function("envoy.http_conn_manager_prefix", "listener", listener_http_prefix),
    function("envoy.listener_address", "listener", listener_address),
    function("envoy.rds_route_config", "http", |name| route_config(name, ".rds.")),
    function("envoy.scoped_rds_config", "http", |name| route_config(name, ".scoped_rds.")),
    function("envoy.rbac_http_prefix", "http", rbac_http_prefix),
    function("envoy.rbac_policy_name", "http", rbac_policy_name),
    function("envoy.proxy_protocol_version", "proxy_proto", proxy_protocol_version),
    function("envoy.proxy_protocol_prefix", "proxy_proto", proxy_protocol_prefix),
    tokens("envoy.grpc_bridge_method", "cluster", "cluster.*.grpc.*.$.**"),
    tokens("envoy.http_user_agent", "http", "http.*.user_agent.$.**"),
    tokens("envoy.virtual_cluster", "vhost", "vhost.*.vcluster.$.**"),
    tokens("envoy.fault_downstream_cluster", "http", "http.*.fault.$.**"),
    tokens("envoy.grpc_bridge_service", "cluster", "cluster.*.grpc.$.**"),
    tokens("envoy.tcp_prefix", "tcp", "tcp.$.**"),
    tokens("envoy.ratelimit_prefix", "ratelimit", "ratelimit.$.**"),
    function("envoy.health_check_name", "cluster", health_check_name),
    tokens("envoy.cluster_name", "cluster", "cluster.$.**"),
    tokens("envoy.ext_authz_prefix", "cluster", "cluster.*.ext_authz.$.**"),
    tokens("envoy.ext_authz_prefix", "http", "http.*.ext_authz.$.**"),
    tokens("envoy.http_conn_manager_prefix", "http", "http.$.**"),
    tokens("envoy.virtual_host", "vhost", "vhost.$.**"),
    tokens("envoy.route", "vhost", "vhost.*.route.$.**"),
    tokens("envoy.local_http_ratelimit_prefix", "", "$.http_local_rate_limit.**"),
    tokens("envoy.local_network_ratelimit_prefix", "local_rate_limit", "local_rate_limit.$.**"),
    tokens(
        "envoy.local_listener_ratelimit_prefix",
        "listener_local_ratelimit",
        "listener_local_ratelimit.$.**",
    ),
    tokens("envoy.connection_limit_prefix", "connection_limit", "connection_limit.$.**"),
    tokens("envoy.rbac_prefix", "", "$.rbac.**"),
];

/// `_rq(_(<3 digits>))` at the end.
fn response_code(name: &str) -> Option<Found> {
    let start = name.len().checked_sub(4)?;
    let code = name.get(start..)?.strip_prefix('_')?;
    let found = code.bytes().all(|b| b.is_ascii_digit()) && name.get(..start)?.ends_with("_rq");
    found.then(|| Found { removed: start..name.len(), value: start + 1..name.len() })
}

/// `_rq_((<digit>))xx` at the end.
fn response_code_class(name: &str) -> Option<Found> {
    let stem = name.strip_suffix("xx")?;
    let digit = stem.len().checked_sub(1)?;
    let found =
        stem.get(digit..)?.bytes().all(|b| b.is_ascii_digit()) && stem.get(..digit)?.ends_with("_rq_");
    found.then(|| Found { removed: digit..digit + 1, value: digit..digit + 1 })
}

/// `cluster.<name>.health_check.(name.(<check>).)`
fn health_check_name(name: &str) -> Option<Found> {
    const MARK: &str = ".health_check.name.";
    let at = name.find(MARK)?;
    let start = at + MARK.len();
    let length = name.get(start..)?.find('.').filter(|length| *length > 0)?;
    Some(Found { removed: start - "name.".len()..start + length + 1, value: start..start + length })
}

pub(super) fn worker_id(name: &str) -> Option<Found> {
    let rest = ["server.", "listener_manager.", "thread_local_cluster_manager."]
        .iter()
        .find_map(|prefix| name.strip_prefix(prefix))
        .or_else(|| name.get(address_span(name)?.1 + 1..))?;
    let digits = rest.strip_prefix("worker_")?;
    let length = digits.find(|c: char| !c.is_ascii_digit())?;
    if length == 0 || !digits.get(length..)?.starts_with('.') {
        return None;
    }
    let start = name.len() - digits.len();
    // The number and its dot leave the name: `server.worker_0.x` becomes `server.worker_x`, as in Envoy.
    Some(Found { removed: start..start + length + 1, value: start..start + length })
}

/// The address or name of `listener.<address>.`: begin and end.
fn address_span(name: &str) -> Option<(usize, usize)> {
    let start = "listener.".len();
    let rest = name.strip_prefix("listener.")?;
    let length = address_length(rest).or_else(|| rest.find('.')).filter(|length| *length > 0)?;
    Some((start, start + length))
}

/// The length of `<IPv4>_<port>` or `[<IPv6 with _ for :>]_<port>` at the start, if a dot follows it.
fn address_length(rest: &str) -> Option<usize> {
    let host = if rest.starts_with('[') {
        let close = rest.find(']')?;
        let inner = rest.get(1..close)?;
        let fits = !inner.is_empty() && inner.bytes().all(|b| b.is_ascii_hexdigit() || b == b'_');
        fits.then_some(close + 1)?
    } else {
        let end = rest.find('_')?;
        let octets: Vec<&str> = rest.get(..end)?.split('.').collect();
        let octet =
            |octet: &&str| (1..=3).contains(&octet.len()) && octet.bytes().all(|b| b.is_ascii_digit());
        (octets.len() == 4 && octets.iter().all(octet)).then_some(end)?
    };
    let port = rest.get(host..)?.strip_prefix('_')?;
    let digits = port.find(|c: char| !c.is_ascii_digit()).filter(|digits| *digits > 0)?;
    port.get(digits..)?.starts_with('.').then_some(host + 1 + digits)
}

/// `listener.(<address or name>.)`, except the admin listener.
fn listener_address(name: &str) -> Option<Found> {
    let (start, end) = address_span(name)?;
    let admin = name.get(start..end)? == "admin";
    (!admin).then(|| Found { removed: start..end + 1, value: start..end })
}

/// `listener.<anything>.http.(<prefix>.)`.
fn listener_http_prefix(name: &str) -> Option<Found> {
    let from = "listener.".len();
    let start = from + name.get(from..)?.find(".http.")? + ".http.".len();
    let length = name.get(start..)?.find('.').filter(|length| *length > 0)?;
    Some(Found { removed: start..start + length + 1, value: start..start + length })
}

/// `http.<prefix>.rds.(<name with dots>.)<word>`.
fn route_config(name: &str, marker: &str) -> Option<Found> {
    let prefix = name.strip_prefix("http.")?;
    let token = prefix.find('.').filter(|token| *token > 0)?;
    let start = "http.".len() + token + marker.len();
    prefix.get(token..)?.strip_prefix(marker)?;
    let end = name.rfind('.').filter(|end| *end > start)?;
    let is_name = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
    let fits = name.get(start..end)?.bytes().all(is_name) && is_words(name.get(end + 1..)?);
    fits.then(|| Found { removed: start..end + 1, value: start..end })
}

/// `http.<prefix>.rbac.(<rbac prefix>.)`, except `policy`.
fn rbac_http_prefix(name: &str) -> Option<Found> {
    let found = super::find_token("http.*.rbac.$.**", name)?;
    let follows = found.value.end < name.len();
    (follows && name.get(found.value.clone())? != "policy").then_some(found)
}

/// `http.<prefix>.rbac.[<rbac prefix>.]policy.(<name>.)<outcome>`.
fn rbac_policy_name(name: &str) -> Option<Found> {
    let outcome = name.rsplit('.').next()?;
    if !matches!(outcome, "allowed" | "shadow_allowed" | "denied" | "shadow_denied") {
        return None;
    }
    super::find_token("http.*.rbac.policy.$.*", name)
        .or_else(|| super::find_token("http.*.rbac.*.policy.$.*", name))
}

/// `proxy_proto.([<prefix>.]versions.v(<1 or 2>).)<word>`.
fn proxy_protocol_version(name: &str) -> Option<Found> {
    let start = "proxy_proto.".len();
    let marker = "versions.v";
    let rest = name.get(start..)?;
    let at = if rest.starts_with(marker) { 0 } else { rest.find('.').filter(|dot| *dot > 0)? + 1 };
    let digit = start + at + rest.get(at..)?.strip_prefix(marker).map(|_| marker.len())?;
    let tail = name.get(digit..)?;
    let fits = matches!(tail.as_bytes(), [b'1' | b'2', b'.', ..]) && is_words(tail.get(2..)?);
    fits.then(|| Found { removed: start..digit + 2, value: digit..digit + 1 })
}

/// `proxy_proto.(<prefix>.)`, except `versions`.
fn proxy_protocol_prefix(name: &str) -> Option<Found> {
    let found = super::find_token("proxy_proto.$.**", name)?;
    let follows = found.value.end < name.len();
    (follows && name.get(found.value.clone())? != "versions").then_some(found)
}

/// `listener.<anything>.ssl.certificate.(<name>.)` and the same for clusters.
fn tls_certificate(name: &str) -> Option<Found> {
    let rest = name.strip_prefix("listener.").or_else(|| name.strip_prefix("cluster."))?;
    let marker = ".ssl.certificate.";
    let start = name.len() - rest.len() + rest.find(marker)? + marker.len();
    let length = name.get(start..)?.find('.').filter(|length| *length > 0)?;
    Some(Found { removed: start..start + length + 1, value: start..start + length })
}

/// `cluster.<name without dots>.ssl.ciphers(.(<cipher>))`.
fn cluster_cipher(name: &str) -> Option<Found> {
    let rest = name.strip_prefix("cluster.")?;
    let token = rest.find('.').filter(|token| *token > 0)?;
    rest.get(token..)?.strip_prefix(".ssl.ciphers.")?;
    ssl(name, ".ssl.ciphers", is_word)
}

fn ssl_anywhere(name: &str, marker: &str, fits: fn(u8) -> bool) -> Option<Found> {
    let known = name.starts_with("listener.") || name.starts_with("cluster.");
    known.then(|| ssl(name, marker, fits))?
}

/// `<marker>(.(<value>))` at the end.
fn ssl(name: &str, marker: &str, fits: fn(u8) -> bool) -> Option<Found> {
    let dot = name.rfind(marker)? + marker.len();
    let value = name.get(dot..)?.strip_prefix('.')?;
    let found = !value.is_empty() && value.bytes().all(fits);
    found.then(|| Found { removed: dot..name.len(), value: dot + 1..name.len() })
}

fn is_word(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-')
}

/// `TLSv1.3`: the dot is part of the value.
fn is_tls_version(b: u8) -> bool {
    b.is_ascii_digit() || matches!(b, b'T' | b'L' | b'S' | b'v' | b'.')
}

fn is_words(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}
