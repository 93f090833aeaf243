//! Quotas that a service assigns (`envoy.filters.http.rate_limit_quota`): what it is told of the same requests, and what becomes of them by what it says.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration::client::Client;
use integration::config::{H2_CLUSTER, HttpListener, bootstrap, cluster, file_log, fill, indent, port};
use integration::expect::{SOON, eventually, whole_lines, within};
use integration::process::{Binary, Proxy};
use integration::talk::{Command, Stream, TalkService};
use prost::Message as _;
use xds_api::envoy::service::rate_limit_quota::v3::rate_limit_quota_response::BucketAction;
use xds_api::envoy::service::rate_limit_quota::v3::rate_limit_quota_response::bucket_action::{
    AbandonAction, BucketAction as Action, QuotaAssignmentAction,
};
use xds_api::envoy::service::rate_limit_quota::v3::rate_limit_quota_usage_reports::BucketQuotaUsage;
use xds_api::envoy::service::rate_limit_quota::v3::{
    BucketId, RateLimitQuotaResponse, RateLimitQuotaUsageReports,
};
use xds_api::envoy::r#type::v3::rate_limit_strategy::{BlanketRule, Strategy};
use xds_api::envoy::r#type::v3::{RateLimitStrategy, TokenBucket};

const TYPES: &str = "type.googleapis.com/envoy";

/// A bucket that is asked for to see whether the service was heard; nothing of it is compared.
const PROBE: &str = "probe";

const LOG: &str = "log_format: {text_format_source: {inline_string: \"%REQ(x-b)%|%RESPONSE_CODE%|%RESPONSE_FLAGS%\
|%RESPONSE_CODE_DETAILS%|%GRPC_STATUS%|%DYNAMIC_METADATA(envoy.extensions.http_filters.rate_limit_quota.bucket:name)%\
|%DYNAMIC_METADATA(envoy.extensions.http_filters.rate_limit_quota.bucket:who)%\\n\"}}";

/// What the cluster of the service counts.
const COUNTED: [&str; 8] = [
    "upstream_rq_total",
    "upstream_rq_200",
    "upstream_rq_active",
    "upstream_rq_completed",
    "internal.upstream_rq_200",
    "upstream_rq_rx_reset",
    "upstream_rq_tx_reset",
    "upstream_cx_total",
];

/// An action with these fields.
fn settings(fields: &str) -> String {
    format!(
        "{{name: q, typed_config: {{\"@type\": {TYPES}.extensions.filters.http.rate_limit_quota.v3.RateLimitQuotaBucketSettings, {fields}}}}}"
    )
}

/// An action for a bucket of this name.
fn named(name: &str, more: &str) -> String {
    settings(&format!(
        "reporting_interval: 5s, bucket_id_builder: {{bucket_id_builder: {{name: {{string_value: {name}}}}}}}{more}"
    ))
}

const DENIED: &str = ", no_assignment_behavior: {fallback_rate_limit: {blanket_rule: DENY_ALL}}";

fn filter() -> String {
    let header = |name: &str| {
        format!(
            "{{name: i, typed_config: {{\"@type\": {TYPES}.type.matcher.v3.HttpRequestHeaderMatchInput, header_name: {name}}}}}"
        )
    };
    let expired = |what: &str| format!(", expired_assignment_behavior: {{{what}}}");
    let denial = |what: &str| format!("{DENIED}, deny_response_settings: {{{what}}}");
    let who = settings(&format!(
        "reporting_interval: 5s, bucket_id_builder: {{bucket_id_builder: {{name: {{string_value: a}}, who: {{custom_value: {}}}}}}}",
        header("x-who")
    ));
    let buckets = [
        (PROBE, named(PROBE, "")),
        ("who", who),
        ("nameless", settings("reporting_interval: 5s")),
        ("plain", named("plain", "")),
        ("other", named("other", "")),
        ("late", named("late", "")),
        ("tokens", named("tokens", "")),
        ("scaled", named("scaled", "")),
        ("denied", named("denied", DENIED)),
        (
            "allowed",
            named("allowed", ", no_assignment_behavior: {fallback_rate_limit: {blanket_rule: ALLOW_ALL}}"),
        ),
        (
            "expires",
            named(
                "expires",
                &expired(
                    "expired_assignment_behavior_timeout: 5s, fallback_rate_limit: {blanket_rule: DENY_ALL}",
                ),
            ),
        ),
        (
            "drains",
            named(
                "drains",
                &expired(
                    "expired_assignment_behavior_timeout: 60s, fallback_rate_limit: {token_bucket: {max_tokens: 2, tokens_per_fill: 1, fill_interval: 3600s}}",
                ),
            ),
        ),
        ("reverts", named("reverts", DENIED)),
        ("brief", named("brief", &expired("fallback_rate_limit: {blanket_rule: DENY_ALL}"))),
        (
            "worded",
            named(
                "worded",
                &denial(
                    "http_status: {code: ServiceUnavailable}, http_body: {value: YWJj}, response_headers_to_add: [{header: {key: x-add, value: \"1 %PROTOCOL%\"}}, {header: {key: x-add, value: \"2\"}}]",
                ),
            ),
        ),
        ("grpc", named("grpc", &denial("grpc_status: {code: 8, message: enough}, http_body: {value: YWJj}"))),
        ("mapped", named("mapped", &denial("http_status: {code: Forbidden}, http_body: {value: YWJj}"))),
        ("fine", named("fine", &denial("http_status: {code: Forbidden}, grpc_status: {code: 0}"))),
    ];
    let map: String =
        buckets.iter().map(|(name, action)| format!("{name}: {{action: {action}}}\n")).collect();
    format!(
        "- name: quota\n  typed_config:\n    \"@type\": {TYPES}.extensions.filters.http.rate_limit_quota.v3.RateLimitQuotaFilterConfig
    rlqs_server: {{envoy_grpc: {{cluster_name: service}}}}
    domain: dom
    bucket_matchers:
      matcher_tree:
        input: {}
        exact_match_map:
          map:
{}      on_no_match: {{action: {}}}\n",
        header("x-b"),
        indent(&map, 12),
        named("rest", "")
    )
}

fn id(name: &str) -> Option<BucketId> {
    Some(BucketId { bucket: [("name".to_owned(), name.to_owned())].into() })
}

fn assign(name: &str, strategy: Strategy, seconds: i64) -> BucketAction {
    let action = QuotaAssignmentAction {
        assignment_time_to_live: Some(prost_types::Duration { seconds, nanos: 0 }),
        rate_limit_strategy: Some(RateLimitStrategy { strategy: Some(strategy) }),
    };
    BucketAction { bucket_id: id(name), bucket_action: Some(Action::QuotaAssignmentAction(action)) }
}

fn deny(name: &str) -> BucketAction {
    assign(name, Strategy::BlanketRule(BlanketRule::DenyAll.into()), 1000)
}

fn allow(name: &str) -> BucketAction {
    assign(name, Strategy::BlanketRule(BlanketRule::AllowAll.into()), 1000)
}

fn tokens(name: &str, most: u32) -> BucketAction {
    let fill_interval = Some(prost_types::Duration { seconds: 3600, nanos: 0 });
    let bucket = TokenBucket { max_tokens: most, tokens_per_fill: Some(1), fill_interval };
    assign(name, Strategy::TokenBucket(bucket), 1000)
}

/// What was told on a stream.
fn reports(stream: &Stream) -> impl Iterator<Item = RateLimitQuotaUsageReports> {
    stream.messages.iter().filter_map(|message| RateLimitQuotaUsageReports::decode(&message[..]).ok())
}

/// A proxy, the service, and what was seen so far.
struct Bed {
    proxy: Proxy,
    service: TalkService,
    client: Client,
    facts: Vec<String>,
    probe_is_denied: bool,
}

impl Bed {
    async fn start(binary: &Binary) -> Result<Self> {
        let service = TalkService::start().await?;
        let routes = "- match: {prefix: /}\n  direct_response: {status: 200}";
        let listener = HttpListener::new("ing", routes).filters(&filter()).logs(&file_log(LOG)).yaml();
        let yaml = bootstrap(&[listener], &[cluster("service", "service", H2_CLUSTER)], "");
        let proxy = Proxy::start(binary, &fill(&yaml, [("service", port(service.addr()))])).await?;
        let client = Client::connect(proxy.listener("ing")?).await?;
        let mut bed = Self { proxy, service, client, facts: Vec::new(), probe_is_denied: false };
        bed.ask(PROBE, "").await?;
        bed.reported(PROBE).await?;
        Ok(bed)
    }

    /// A request to this bucket, and what was answered.
    async fn ask(&mut self, bucket: &str, lines: &str) -> Result<String> {
        let request = format!("GET / HTTP/1.1\r\nhost: test\r\nx-b: {bucket}\r\n{lines}\r\n");
        self.client.send(request.as_bytes()).await?;
        let response = self.client.response("GET", SOON).await?;
        let told =
            response.head.fields.iter().filter(|(name, _)| !["date", "server"].contains(&name.as_str()));
        let fields: Vec<_> = told.map(|(name, value)| format!("{name}: {value}")).collect();
        let body = String::from_utf8_lossy(&response.body).into_owned();
        Ok(format!("{} {fields:?} {body}", response.head.status()?))
    }

    /// The same, as a fact.
    async fn get(&mut self, bucket: &str, lines: &str) -> Result<()> {
        let answer = self.ask(bucket, lines).await?;
        self.facts.push(format!("{bucket} {lines:?}: {answer}"));
        Ok(())
    }

    /// The same, of a bucket that is told of at once.
    async fn first(&mut self, bucket: &str, lines: &str, name: &str) -> Result<()> {
        self.get(bucket, lines).await?;
        let (count, usage) = self.reported(name).await?;
        let seconds = usage.time_elapsed.map(|elapsed| elapsed.seconds);
        let counted = (usage.num_requests_allowed, usage.num_requests_denied);
        self.facts.push(format!("told of {name:?}: {counted:?} {seconds:?}, one of {count}"));
        Ok(())
    }

    /// The first usage of a bucket that was told, and of how many buckets at once.
    async fn reported(&self, name: &str) -> Result<(usize, BucketQuotaUsage)> {
        let wanted = if name.is_empty() { Some(BucketId::default()) } else { id(name) };
        let what = format!("a report of '{name}'");
        eventually(&what, SOON, async || {
            let streams = self.service.streams();
            streams.iter().flat_map(reports).find_map(|report| {
                let usages = &report.bucket_quota_usages;
                let usage = usages.iter().find(|usage| usage.bucket_id == wanted)?;
                (report.domain == "dom").then(|| (usages.len(), usage.clone()))
            })
        })
        .await
    }

    /// Has the service say this, and waits until it was heard.
    async fn say(&mut self, mut actions: Vec<BucketAction>) -> Result<()> {
        self.probe_is_denied = !self.probe_is_denied;
        actions.push(if self.probe_is_denied { deny(PROBE) } else { allow(PROBE) });
        self.service
            .command(Command::Say(RateLimitQuotaResponse { bucket_action: actions }.encode_to_vec()))?;
        let status = if self.probe_is_denied { "429" } else { "200" };
        self.becomes(PROBE, status).await
    }

    /// Waits until requests to a bucket are answered so.
    async fn becomes(&mut self, bucket: &str, status: &str) -> Result<()> {
        within(&format!("{status} of '{bucket}'"), SOON, async {
            while !self.ask(bucket, "").await?.starts_with(status) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            Ok(())
        })
        .await?
    }

    /// What was counted of these buckets, once as much was reported as they were asked for.
    async fn totals(&mut self, buckets: &[(&str, u64)]) -> Result<()> {
        for (name, expected) in buckets {
            let wanted = if name.is_empty() { Some(BucketId::default()) } else { id(name) };
            let total = eventually(&format!("{expected} requests of '{name}'"), SOON, async || {
                let streams = self.service.streams();
                let told = streams.iter().flat_map(reports);
                let usages = told.flat_map(|report| report.bucket_quota_usages);
                let total = usages.filter(|usage| usage.bucket_id == wanted).fold(
                    (0, 0),
                    |(allowed, denied), one| {
                        (allowed + one.num_requests_allowed, denied + one.num_requests_denied)
                    },
                );
                (total.0 + total.1 >= *expected).then_some(total)
            })
            .await?;
            self.facts.push(format!("total of {name:?}: {total:?}"));
        }
        Ok(())
    }

    /// What the first report of a stream has, once there is one.
    async fn begins(&mut self, number: usize) -> Result<()> {
        let (path, fields, usages) = eventually(&format!("stream {number}"), SOON, async || {
            let streams = self.service.streams();
            let stream = streams.get(number)?;
            let report = reports(stream).next()?;
            Some((stream.path.clone(), stream.fields.clone(), report.bucket_quota_usages.clone()))
        })
        .await?;
        let mut names: Vec<_> = usages
            .iter()
            .filter_map(|usage| usage.bucket_id.as_ref())
            .map(|id| id.bucket.iter().collect::<BTreeMap<_, _>>())
            .map(|id| format!("{id:?}"))
            .collect();
        names.sort();
        let fields: BTreeMap<_, _> = fields
            .iter()
            .filter(|(name, _)| *name != "x-forwarded-for")
            .map(|(name, value)| (name.as_str(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
            .collect();
        self.facts.push(format!("stream {number}: {path} {fields:?} of {names:?}"));
        Ok(())
    }

    async fn count(&mut self) -> Result<()> {
        for name in COUNTED {
            let value = self.proxy.admin().stat(&format!("cluster.service.{name}")).await?;
            self.facts.push(format!("{name}: {value}"));
        }
        Ok(())
    }

    /// Adds the lines of the log, without those of buckets that were asked for until something happened.
    async fn read_log(&mut self, polled: &[&str]) -> Result<()> {
        let log = self.proxy.dir().join("access.log");
        let is_compared = |line: &String| !polled.iter().any(|name| line.starts_with(&format!("{name}|")));
        let lines = eventually("the log", SOON, async || {
            let lines: Vec<_> = whole_lines(&log).into_iter().filter(is_compared).collect();
            lines.last()?.starts_with("last|").then_some(lines)
        })
        .await?;
        self.facts.extend(lines);
        Ok(())
    }
}

/// Buckets without assignments, and what is told of them.
async fn unassigned(bed: &mut Bed) -> Result<()> {
    bed.begins(0).await?;
    bed.first("plain", "", "plain").await?;
    bed.get("plain", "").await?;
    bed.first("allowed", "", "allowed").await?;
    bed.first("denied", "", "denied").await?;
    bed.get("denied", "").await?;
    bed.first("nameless", "", "").await?;
    bed.get("nameless", "").await?;
    bed.first("unheard-of", "", "rest").await?;
    bed.get("", "").await?;
    // A value that is not there is no bucket; an empty one is none of its name.
    bed.get("who", "").await?;
    bed.first("who", "x-who: \r\n", "a").await?;
    bed.get("who", "x-who: me\r\n").await?;
    bed.get("who", "x-who: me\r\nx-who: you\r\n").await?;
    Ok(())
}

/// How requests are refused.
async fn refusals(bed: &mut Bed) -> Result<()> {
    for bucket in ["worded", "grpc", "mapped", "fine"] {
        bed.first(bucket, "", bucket).await?;
        bed.get(bucket, "content-type: application/grpc\r\n").await?;
    }
    Ok(())
}

/// What the service says.
async fn assignments(bed: &mut Bed) -> Result<()> {
    bed.say(vec![deny("plain"), allow("denied"), deny("nobody")]).await?;
    bed.get("plain", "").await?;
    bed.get("denied", "").await?;
    bed.first("tokens", "", "tokens").await?;
    bed.say(vec![tokens("tokens", 2), allow("plain"), deny("denied")]).await?;
    for bucket in ["tokens", "tokens", "tokens", "plain", "denied"] {
        bed.get(bucket, "").await?;
    }
    // The same tokens go on; others begin with as large a share of them.
    bed.say(vec![tokens("tokens", 2)]).await?;
    bed.get("tokens", "").await?;
    bed.say(vec![tokens("tokens", 1)]).await?;
    bed.get("tokens", "").await?;
    bed.get("tokens", "").await?;
    bed.first("scaled", "", "scaled").await?;
    bed.say(vec![tokens("scaled", 5)]).await?;
    bed.get("scaled", "").await?;
    bed.say(vec![tokens("scaled", 10)]).await?;
    for _ in 0..9 {
        bed.get("scaled", "").await?;
    }
    bed.say(vec![allow("scaled")]).await?;
    bed.say(vec![tokens("scaled", 1)]).await?;
    bed.get("scaled", "").await?;
    bed.get("scaled", "").await?;
    // What says of no bucket says nothing.
    bed.say(vec![BucketAction { bucket_id: None, ..deny("plain") }]).await?;
    bed.get("plain", "").await?;
    bed.totals(&[
        ("plain", 5),
        ("denied", 4),
        ("", 2),
        ("rest", 2),
        ("allowed", 1),
        ("tokens", 7),
        ("scaled", 13),
        ("grpc", 2),
    ])
    .await?;
    // An abandoned bucket is a new one when it is asked for again.
    let abandoned = Some(Action::AbandonAction(AbandonAction {}));
    bed.first("other", "", "other").await?;
    bed.say(vec![deny("other")]).await?;
    bed.get("other", "").await?;
    bed.totals(&[("other", 2)]).await?;
    bed.say(vec![BucketAction { bucket_id: id("other"), bucket_action: abandoned }]).await?;
    bed.get("other", "").await?;
    bed.totals(&[("other", 3)]).await
}

/// What holds when assignments expire.
async fn expiry(bed: &mut Bed) -> Result<()> {
    let briefly = |name: &str, rule: BlanketRule| assign(name, Strategy::BlanketRule(rule.into()), 3);
    for bucket in ["expires", "drains", "reverts", "brief"] {
        bed.first(bucket, "", bucket).await?;
    }
    bed.say(vec![
        briefly("expires", BlanketRule::AllowAll),
        briefly("drains", BlanketRule::DenyAll),
        briefly("reverts", BlanketRule::AllowAll),
        briefly("brief", BlanketRule::DenyAll),
    ])
    .await?;
    bed.becomes("expires", "200").await?;
    bed.becomes("reverts", "200").await?;
    bed.becomes("expires", "429").await?;
    bed.becomes("reverts", "429").await?;
    bed.becomes("brief", "200").await?;
    bed.becomes("drains", "200").await?;
    bed.get("drains", "").await?;
    bed.get("drains", "").await?;
    bed.becomes("expires", "200").await?;
    bed.say(vec![deny("expires")]).await?;
    bed.get("expires", "").await
}

/// Streams that end, and what goes on without one.
async fn ends(bed: &mut Bed) -> Result<()> {
    let ways = [Command::End(0), Command::Reset, Command::Say(b"\xff\xff".to_vec()), Command::End(14)];
    for (number, way) in ways.into_iter().enumerate() {
        bed.service.command(way)?;
        eventually("the end of the stream", SOON, async || {
            let count = bed.proxy.admin().stat("cluster.service.upstream_rq_active").await.ok()?;
            (count == 0).then_some(())
        })
        .await?;
        bed.get("plain", "").await?;
        bed.get("denied", "").await?;
        if number == 0 {
            bed.get("late", "").await?;
        }
        bed.begins(number + 1).await?;
        // (Streams that nothing is heard on are begun later each time.)
        bed.say(vec![allow("plain")]).await?;
    }
    bed.say(vec![deny("plain"), deny("late")]).await?;
    bed.get("plain", "").await?;
    bed.get("late", "").await?;
    bed.totals(&[("plain", 10), ("denied", 8)]).await?;
    bed.count().await
}

async fn observe(binary: &Binary) -> Result<Vec<String>> {
    let mut bed = Bed::start(binary).await?;
    unassigned(&mut bed).await.context("without assignments")?;
    refusals(&mut bed).await.context("refusals")?;
    assignments(&mut bed).await.context("assignments")?;
    expiry(&mut bed).await.context("expiry")?;
    ends(&mut bed).await.context("ends")?;
    bed.get("last", "").await?;
    bed.read_log(&[PROBE, "expires", "reverts", "brief", "drains"]).await?;
    Ok(bed.facts)
}

pub(crate) async fn compare() -> Result<()> {
    let (envoy, subject) = (Binary::envoy()?, Binary::subject()?);
    let (left, right) = tokio::join!(observe(&envoy), observe(&subject));
    let (left, right) = (left.context("Envoy")?, right.context("Outrigger")?);
    let count = left.len().max(right.len());
    let none = String::new();
    let differ: Vec<String> = (0..count)
        .map(|at| (left.get(at).unwrap_or(&none), right.get(at).unwrap_or(&none)))
        .filter(|(left, right)| left != right)
        .map(|(left, right)| format!("Envoy:     {left}\nOutrigger: {right}"))
        .collect();
    ensure!(left.len() > 100, "only {} facts", left.len());
    ensure!(differ.is_empty(), "of {count} facts:\n{}", differ.join("\n"));
    Ok(())
}
