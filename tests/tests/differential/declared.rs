//! `docs/differences.md`: every difference from Envoy that a case declares, with its reason.

use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use integration::differential::Case;

use crate::{
    bandwidth_limit, buffer, clusters, compressor, dynamic, ext_authz, ext_authz_network, flushing, headers,
    hedging, http1, http2, jwt, logs, metadata, paths, ratelimit, ratelimit_network, rbac, rbac_matcher,
    redirects, replies, retries, routing, tcp, timeouts, tunnels, upstream_filters,
};

const INTRODUCTION: &str = "\
# Where Outrigger differs from Envoy

Outrigger answers as Envoy 1.40 does, byte for byte where it can. Where it does not, it is on purpose, and this page says why.
It is made from the test cases that declare the differences and fail if one is not there any more, so it does not drift:
`UPDATE_DOCS=1 cargo test -p integration --test differential declared` writes it anew.

After the last response of a connection, Outrigger says at once that nothing follows (FIN) and then waits for the client to close;
Envoy waits first. So `downstream_cx_delayed_close_timeout` counts only clients that stay even then.

`per_connection_buffer_limit_bytes: 0` sets no limit in Envoy; here it is 64 MiB. Of informational (1xx) responses an HTTP/2 client gets
16 for each of its requests.

How a message is framed, and what concerns one connection, is the codec's to say: where a filter or a route sets `transfer-encoding`, `connection`,
`keep-alive`, `proxy-connection`, `upgrade` or a `te` other than `trailers`, nothing of it leaves, and a `content-length` that is not that of the body
ends the message early. Envoy sends what it is told, and its peer reads another message than was meant.

Over HTTP/1 a response is read from its host as the client takes it, 32 KiB and a piece ahead, whatever `per_connection_buffer_limit_bytes`
allows: memory for slow clients stays small, and bodies need no copy. So a response that Envoy would have buffered whole keeps its host
longer, and its route's `timeout` may end it.

Bodies are read as far as the other side takes them, not up to a mark at which reading is stopped: there is nothing to pause and to resume, and hardly
anything to buffer. So `upstream_flow_control_*`, `downstream_flow_control_*`, `upstream_cx_{rx,tx}_bytes_buffered` and
`downstream_cx_{rx,tx}_bytes_buffered` stay 0.

`custom_settings_parameters` with values that HTTP/2 forbids are refused; Envoy takes them, and then begins connections without SETTINGS.
The gauges `http2.outbound_frames_active` and `http2.outbound_control_frames_active` stay 0: frames that wait to be sent lie in the HTTP/2 library,
which does not tell how many there are; of control frames it keeps one at most.
METADATA frames (`allow_metadata`) may hold `max_metadata_size` for each stream, as in Envoy. Beyond that, all streams of a connection together
may have 16 MiB wait for their turn, or as much as one stream if that is more; a peer that sends more, or reads less, loses the connection.
Requests that wait for a stream are sent as soon as a host allows more of them; Envoy only ever lowers the limit of a connection.

While a client of a listener that looks at first bytes is silent, the host of the chain for unknown connections is connected to, and the greeting of a
server that speaks first is passed on at once ([ADR 9](adr/0009-server-first.md)); Envoy waits for `listener_filters_timeout`. Such a connection may be
closed unused.

`lb_recalculate_zone_structures`, and what `lb_zone_cluster_too_small` and `lb_local_cluster_not_ok` count when hosts change, are counted by workers that pick
from them; Envoy counts in every thread and at every update.

A connection to a dynamic forward proxy waits for the name that it goes to; in Envoy the first connection to a name is refused, unless
`sni_dynamic_forward_proxy` had it looked up. A host whose addresses change is another host, whose predecessor's connections end with what is on them; Envoy uses these
further. With `disable_dns_refresh_on_failure` a name that failed is forgotten at once; Envoy keeps it until somebody asks again.
A connection whose client leaves while a name is looked up for it gives its place among those that may wait (`max_pending_requests`) back; Envoy notices
when the name is known.
`resolved_address_filter` refuses an IPv4-mapped IPv6 address for the IPv4 address that it stands for, too, and one that passes is connected to over IPv4; Envoy lets it pass, and cannot connect to it.

Weights that hosts report are made at most every 100 ms (`weight_update_period`), as the API says, and numbers of reports are decimal.
A negative `error_utilization_penalty` is refused, as the API says; Envoy takes it.

Of a host whose labels are lists (`list_as_any`) no more than 4096 combinations make subsets; Envoy makes all. Subsets are not divided further
by a `subset_lb_policy` that is one of subsets again.

A session does not choose among the hosts that an ORIGINAL_DST cluster has made: its requests go where their connections were to go.
An envelope of a session whose content no header can hold is left as it is; Envoy answers 503.

A try that is hedged goes on where there is no host for the next one, or no cluster any more; Envoy ends it, and answers 503.

Copies of requests (`request_mirror_policies`) keep nobody waiting: one whose host is too slow is given up; Envoy slows the client down. A tunnel
has none; Envoy copies it.

Limits of `bandwidth_limit` that are on without a rate are refused. A body that is given up is `request_pending` or `response_pending` no more; Envoy
goes on counting it.

Quotas of a service (`rate_limit_quota`) are reported at their own intervals, hold as long as the API says, and what Envoy does not heed is refused
([rate-limits.md](rate-limits.md)).

Of active health checks, the gauge `degraded` goes down when a host is degraded no longer, and `binary` payloads of TCP checks are sent
([health.md](health.md)). A `hds_config` that cannot work is refused, and so is a specifier with a check that nobody knows; Envoy goes on without the
first, and ends with the second.

Sinks of statistics are told of histograms when statistics are flushed, not at each value, and each flush is a call of the metrics service
([observability.md](observability.md)).

The spans of all threads are reported together; calls that filters make and copies of requests are told of no trace, and the span of a try that is hedged
ends when the next one begins. Reports of OpenTelemetry name this program as the one that made them, and heed the `timeout` of a service of gRPC
([observability.md](observability.md)).

Pages of topics have lists of their own: [TLS](tls.md#what-differs-from-envoy), [access control](access-control.md#what-differs-from-envoy),
[overload](overload.md#what-differs-from-envoy), [statistics, logs and the admin interface](operations.md#what-is-counted-and-logged-differently),
[redirection](redirection.md#differences-from-istio-iptables). Configuration that is not supported is listed in
[configuration.md](configuration.md).

Facts in the tables have the names that the tests give them: `log[0].rx` is a field of the first access log line, `counter ...` a statistic,
`response[0]` and `upstream[0]` what the client got and the host was sent.
";

/// So many cases of a row are named.
const NAMED: usize = 5;

/// The groups of cases, and the tables of bytes.
fn sections() -> Result<Vec<(&'static str, Vec<Row>)>> {
    let groups = [
        ("HTTP/1", http1::cases()),
        ("HTTP/1 upstreams", http1::upstream_cases()),
        ("HTTP/2", http2::cases()),
        ("HTTP/2 frames", http2::frame_cases()),
        ("METADATA frames", metadata::exchanges().into_iter().map(|exchange| exchange.case).collect()),
        ("Routes", routing::cases()),
        ("Redirects that are followed", redirects::cases()),
        ("Retries", retries::cases()),
        ("Tries beside each other", hedging::cases()),
        ("Clusters of routes", clusters::cases()),
        ("Dynamic forward proxies", dynamic::cases()),
        ("Compression", compressor::cases()),
        ("Headers", headers::cases()),
        ("Paths", paths::cases()),
        ("Local replies", replies::cases()),
        ("Time limits", timeouts::cases()),
        ("Waiting for the window", flushing::cases()),
        ("Upgrades and CONNECT", tunnels::cases()),
        ("Ignored upgrades", tunnels::ignored_cases()),
        ("Filters behind the router", upstream_filters::cases()),
        ("TCP", tcp::cases()),
        ("Authorization by a service", ext_authz::cases()),
        ("Authorization by a service over HTTP", ext_authz::http_cases()),
        ("Authorization of connections by a service", ext_authz_network::cases()),
        ("Rate limits by a service", ratelimit::cases()),
        ("Rate limits of connections by a service", ratelimit_network::cases()),
        ("Buffered requests", buffer::cases()),
        ("Limits of bandwidth", bandwidth_limit::cases()),
        ("Access control", rbac::cases()),
        ("Access control of connections", rbac::network_cases()),
        ("Access control by matchers", rbac_matcher::cases()),
        ("Access control of connections by matchers", rbac_matcher::network_cases()),
        ("Tokens", jwt::setup_and_cases().1),
        ("Access logs", logs::cases()),
        ("Upstream logs", logs::upstream_cases()),
    ];
    let mut sections: Vec<(&'static str, Vec<Row>)> =
        groups.into_iter().map(|(title, cases)| (title, declared(&cases))).collect();
    for (title, table) in [
        ("Malformed requests", include_str!("../../cases/wire-http1.tsv")),
        ("Malformed responses", include_str!("../../cases/wire-upstream.tsv")),
        ("PROXY protocol", include_str!("../../cases/wire-proxy-protocol.tsv")),
    ] {
        sections.push((title, differing(table).context(title)?));
    }
    Ok(sections)
}

/// One line of the page: what has one reason.
#[derive(Default)]
struct Row {
    facts: Vec<String>,
    cases: Vec<String>,
    why: String,
}

/// Adds a fact of a case to the row of its reason.
fn add(rows: &mut Vec<Row>, case: &str, fact: String, why: &str) {
    let at = rows.iter().position(|row| row.why == why).unwrap_or_else(|| {
        rows.push(Row { why: why.to_owned(), ..Row::default() });
        rows.len() - 1
    });
    let row = &mut rows[at];
    if !row.facts.contains(&fact) {
        row.facts.push(fact);
    }
    if !row.cases.iter().any(|known| known == case) {
        row.cases.push(case.to_owned());
    }
}

/// What cases of the rig declare.
fn declared(cases: &[Case]) -> Vec<Row> {
    let mut rows = Vec::new();
    for case in cases {
        for (fact, reason) in case.known.iter().chain(&case.varying) {
            add(&mut rows, case.name, format!("`{fact}`"), reason);
        }
    }
    rows
}

/// The rows of a table of bytes in which Outrigger's column is not Envoy's. The line before each says why: `# why: ...`.
fn differing(table: &str) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    let mut why = None;
    for line in table.lines() {
        if line.starts_with('#') {
            why = line.strip_prefix("# why: ");
            continue;
        }
        let mut cells = line.split(" |").map(str::trim);
        let mut cell = || cells.next().with_context(|| format!("too few columns: {line}"));
        let (name, envoy, ours) = (cell()?, cell()?, cell()?);
        let reason = why.take();
        ensure!((envoy != ours) == reason.is_some(), "{name}: `# why:` is for rows that differ from Envoy");
        if let Some(reason) = reason {
            let what = format!("Envoy {}, Outrigger {}", said(envoy), said(ours));
            add(&mut rows, &name.replace('_', " "), what, reason);
        }
    }
    Ok(rows)
}

/// `200/1` and `200,open` in words: the status is what matters.
fn said(outcome: &str) -> String {
    let statuses: Vec<&str> =
        outcome.split(' ').filter_map(|outcome| outcome.split(['/', ',']).next()).collect();
    statuses.join(" or ").replace('-', "closes")
}

fn page() -> Result<String> {
    let mut page = INTRODUCTION.to_owned();
    for (title, rows) in sections()? {
        if rows.is_empty() {
            continue;
        }
        write!(page, "\n## {title}\n\n| why | what differs | where |\n|---|---|---|\n")?;
        for Row { facts, cases, why } in rows {
            let named: Vec<&str> = cases.iter().take(NAMED).map(String::as_str).collect();
            let more = match cases.len().saturating_sub(NAMED) {
                0 => String::new(),
                more => format!("; {more} more"),
            };
            let (what, cases) = (facts.join(", "), format!("{}{more}", named.join("; ")));
            ensure!(![&why, &what, &cases].iter().any(|cell| cell.contains('|')), "{cases}: a bar in a cell");
            writeln!(page, "| {why} | {what} | {cases} |")?;
        }
    }
    Ok(page)
}

/// Compares the page with the declarations; with `UPDATE_DOCS=1` writes it.
pub(crate) fn check_page() -> Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/differences.md");
    let page = page()?;
    if std::env::var_os("UPDATE_DOCS").is_some() {
        return Ok(std::fs::write(path, page)?);
    }
    let there = std::fs::read_to_string(path).unwrap_or_default();
    ensure!(
        there == page,
        "docs/differences.md differs from the declarations: UPDATE_DOCS=1 cargo test -p integration --test differential declared"
    );
    Ok(())
}
