//! A service of quotas whose cluster is replaced, removed and comes back: on which stream it is told of requests, and what holds meanwhile.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use integration::client::Client;
use integration::config::{HttpListener, bootstrap, indent};
use integration::expect::{SOON, eventually};
use integration::process::{Binary, Proxy};
use integration::talk::{Command, TalkService};
use prost::Message as _;
use xds_api::envoy::service::rate_limit_quota::v3::rate_limit_quota_response::BucketAction;
use xds_api::envoy::service::rate_limit_quota::v3::rate_limit_quota_response::bucket_action::{
    BucketAction as Action, QuotaAssignmentAction,
};
use xds_api::envoy::service::rate_limit_quota::v3::{
    BucketId, RateLimitQuotaResponse, RateLimitQuotaUsageReports,
};
use xds_api::envoy::r#type::v3::RateLimitStrategy;
use xds_api::envoy::r#type::v3::rate_limit_strategy::{BlanketRule, Strategy};

const TYPES: &str = "type.googleapis.com/envoy";

/// What the cluster counts.
const COUNTED: [&str; 4] =
    ["upstream_rq_total", "upstream_rq_active", "upstream_rq_tx_reset", "upstream_cx_active"];

fn filter() -> String {
    format!(
        "- name: quota\n  typed_config:\n    \"@type\": {TYPES}.extensions.filters.http.rate_limit_quota.v3.RateLimitQuotaFilterConfig
    rlqs_server: {{envoy_grpc: {{cluster_name: service}}}}
    domain: dom
    bucket_matchers:
      on_no_match:
        action:
          name: q
          typed_config:
            \"@type\": {TYPES}.extensions.filters.http.rate_limit_quota.v3.RateLimitQuotaBucketSettings
            reporting_interval: 5s
            bucket_id_builder: {{bucket_id_builder: {{name: {{string_value: all}}}}}}\n"
    )
}

/// Delivers the cluster of this service, or none.
fn deliver(path: &Path, service: Option<&TalkService>) -> Result<()> {
    let cluster = |service: &TalkService| {
        let cluster = format!(
            "\"@type\": {TYPES}.config.cluster.v3.Cluster\nname: service\nconnect_timeout: 1s\ntyped_extension_protocol_options: {{envoy.extensions.upstreams.http.v3.HttpProtocolOptions: {{\"@type\": {TYPES}.extensions.upstreams.http.v3.HttpProtocolOptions, explicit_http_config: {{http2_protocol_options: {{}}}}}}}}\nload_assignment: {{cluster_name: service, endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {}}}}}}}}}]}}]}}\n",
            service.addr().port()
        );
        format!("- {}", indent(&cluster, 2).trim_start())
    };
    let text = format!("resources:\n{}", service.map(cluster).unwrap_or_default());
    let text = if service.is_none() { "resources: []\n".to_owned() } else { text };
    let fresh = path.with_extension("fresh");
    std::fs::write(&fresh, text)?;
    Ok(std::fs::rename(fresh, path)?)
}

struct Bed {
    proxy: Proxy,
    client: Client,
    facts: Vec<String>,
}

impl Bed {
    async fn ask(&mut self) -> Result<u16> {
        self.client.send(b"GET / HTTP/1.1\r\nhost: test\r\n\r\n").await?;
        Ok(self.client.response("GET", SOON).await?.head.status()?)
    }

    async fn get(&mut self, what: &str) -> Result<()> {
        let status = self.ask().await?;
        self.facts.push(format!("{what}: {status}"));
        Ok(())
    }

    async fn becomes(&mut self, status: u16) -> Result<()> {
        tokio::time::timeout(SOON, async {
            while self.ask().await? != status {}
            anyhow::Ok(())
        })
        .await
        .with_context(|| format!("no {status} after {:?}", self.facts))?
    }

    /// Waits until the service is told of the bucket on this stream, and it is the last one.
    async fn told(&mut self, service: &TalkService, stream: usize) -> Result<()> {
        let id = BucketId { bucket: [("name".to_owned(), "all".to_owned())].into() };
        let what = format!("stream {stream} after {:?}", self.facts);
        let path = eventually(&what, SOON, async || {
            let streams = service.streams();
            let found = streams.get(stream)?;
            let usages = found.messages.iter().flat_map(|message| {
                let report = RateLimitQuotaUsageReports::decode(&message[..]).ok();
                report.into_iter().flat_map(|report| report.bucket_quota_usages)
            });
            usages.into_iter().any(|usage| usage.bucket_id.as_ref() == Some(&id)).then(|| found.path.clone())
        })
        .await?;
        self.facts.push(format!("told on stream {stream} of {}: {path}", service.streams().len()));
        Ok(())
    }

    async fn is_over(&mut self, service: &TalkService, stream: usize) -> Result<()> {
        let over = async || service.streams().get(stream)?.is_over.then_some(());
        eventually(&format!("the end of stream {stream} after {:?}", self.facts), SOON, over).await
    }

    async fn counts(&mut self, what: &str) -> Result<()> {
        for name in COUNTED {
            let value = self.proxy.admin().stat(&format!("cluster.service.{name}")).await?;
            self.facts.push(format!("{what}: {name}: {value}"));
        }
        Ok(())
    }
}

fn assign(service: &TalkService, rule: BlanketRule) -> Result<()> {
    let strategy = RateLimitStrategy { strategy: Some(Strategy::BlanketRule(rule.into())) };
    let action = QuotaAssignmentAction {
        assignment_time_to_live: Some(prost_types::Duration { seconds: 1000, nanos: 0 }),
        rate_limit_strategy: Some(strategy),
    };
    let action = BucketAction {
        bucket_id: Some(BucketId { bucket: [("name".to_owned(), "all".to_owned())].into() }),
        bucket_action: Some(Action::QuotaAssignmentAction(action)),
    };
    service.command(Command::Say(RateLimitQuotaResponse { bucket_action: vec![action] }.encode_to_vec()))
}

async fn observe(binary: &Binary) -> Result<Vec<String>> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("cds.yaml");
    let (first, second) = (TalkService::start().await?, TalkService::start().await?);
    deliver(&path, Some(&first))?;
    let routes = "- match: {prefix: /}\n  direct_response: {status: 200}";
    let listener = HttpListener::new("ing", routes).filters(&filter()).yaml();
    let rest = format!(
        "node: {{id: a, cluster: b}}\ndynamic_resources: {{cds_config: {{path_config_source: {{path: {}}}}}}}\n",
        path.display()
    );
    let proxy = Proxy::start(binary, &bootstrap(&[listener], &[], &rest)).await?;
    let client = Client::connect(proxy.listener("ing")?).await?;
    let mut bed = Bed { proxy, client, facts: Vec::new() };
    bed.get("at first").await?;
    bed.told(&first, 0).await?;
    assign(&first, BlanketRule::DenyAll)?;
    bed.becomes(429).await?;
    bed.counts("one").await?;
    // Another cluster comes in its place.
    deliver(&path, Some(&second))?;
    bed.is_over(&first, 0).await?;
    bed.get("what was assigned goes on").await?;
    bed.told(&second, 0).await?;
    assign(&second, BlanketRule::AllowAll)?;
    bed.becomes(200).await?;
    bed.counts("another").await?;
    // None.
    deliver(&path, None)?;
    bed.is_over(&second, 0).await?;
    bed.get("what was assigned goes on").await?;
    deliver(&path, Some(&first))?;
    bed.told(&first, 1).await?;
    assign(&first, BlanketRule::DenyAll)?;
    bed.becomes(429).await?;
    bed.facts.push(format!("streams: {} {}", first.streams().len(), second.streams().len()));
    bed.proxy.stop().await?;
    Ok(bed.facts)
}

pub(crate) async fn compare() -> Result<()> {
    let (envoy, subject) = (Binary::envoy()?, Binary::subject()?);
    let (wanted, found) = tokio::join!(observe(&envoy), observe(&subject));
    let (wanted, found) = (wanted.context("Envoy")?, found.context("Outrigger")?);
    ensure!(wanted == found, "Envoy: {wanted:#?}\nOutrigger: {found:#?}");
    Ok(())
}
