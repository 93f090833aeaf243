//! One name of a secret in two uses: a certificate in one place, what clients are held to in another.

use std::collections::BTreeSet;

use integration::config::{HttpListener, cluster, fill, port};
use integration::control_plane::{bootstrap_of, management_cluster, socket};
use integration::expect::{SOON, eventually};
use integration::process::{Binary, Kind, Proxy};
use integration::tls::{ClientOptions, Identity, converse, downstream};
use integration::upstream::Upstream;
use xds::fake::ManagementServer;

use crate::secrets::{Certificates, SDS, authority, certificate, secret, source_of, stats};
use crate::{GET, both};

fn listener(name: &str, common: &str, context: &str) -> String {
    let stat_prefix = format!("stat_prefix: {name}");
    HttpListener::to_up(name).chain(&downstream(common, context)).listener(&stat_prefix).yaml()
}

/// Whether a client is let in.
async fn enters(proxy: &Proxy, listener: &str, client: &Identity) -> bool {
    let options = ClientOptions::with(client);
    let outcome = converse(proxy.listener(listener).unwrap(), &options, GET, "\r\n\r\n").await.unwrap();
    outcome.answer.starts_with("HTTP/1.1 200")
}

/// Answers that were taken, and that were not.
async fn counts(proxy: &Proxy) -> [i64; 2] {
    [stats(proxy, "sds.one.update_success").await, stats(proxy, "sds.one.update_rejected").await]
}

/// What is seen of a secret `one` that is needed as both, and is first the one, then the other.
async fn observe(binary: &Binary, api_type: &str) -> Vec<String> {
    let c = Certificates::new();
    let others = Certificates::new();
    let [client, stranger] = [&c.client, &others.client];
    let host = Upstream::start().await.unwrap();
    let management = ManagementServer::start().await.unwrap();
    management.set(&SDS, "1", [secret(&authority("one", &c.root))]);
    let config = format!("{{name: one{}}}", source_of(api_type, ""));
    let own = c.servers[0].inline();
    let listeners = [
        listener("shows", &format!("tls_certificate_sds_secret_configs: [{config}]\n"), ""),
        listener(
            "asks",
            &format!("tls_certificates: [{own}]\nvalidation_context_sds_secret_config: {config}\n"),
            "require_client_certificate: true\n",
        ),
    ];
    let up = fill(&cluster("up", "up", ""), [("up", port(host.addr()))]);
    let clusters = management_cluster(&socket(management.address())) + &up;
    let proxy = Proxy::start(binary, &bootstrap_of("", &listeners, &clusters, "GRPC")).await.unwrap();
    let mut told = Vec::new();
    let until = async |wanted: [i64; 2]| {
        let reached =
            eventually("both answers", SOON, async || (counts(&proxy).await == wanted).then_some(()));
        let (reached, now) = (reached.await, counts(&proxy).await);
        assert!(reached.is_ok(), "{:?}: {now:?}, not {wanted:?}", proxy.kind());
    };
    until([1, 1]).await;
    for (listener, who) in [("shows", client), ("asks", client), ("asks", stranger)] {
        told.push(format!("1 {listener}: {}", enters(&proxy, listener, who).await));
    }
    let recorded = management.recorded();
    let of_secrets = recorded.iter().filter(|one| one.type_url() == SDS);
    let streams: BTreeSet<usize> = of_secrets.map(|one| one.stream).collect();
    told.push(format!("{} streams", streams.len()));
    management.set(&SDS, "2", [secret(&certificate("one", &c.servers[1]))]);
    // Envoy takes a certificate for a context that demands nothing.
    until(if proxy.kind() == Kind::Envoy { [3, 1] } else { [2, 2] }).await;
    told.push(format!("2 shows: {}", enters(&proxy, "shows", client).await));
    assert!(enters(&proxy, "asks", client).await);
    assert_eq!(enters(&proxy, "asks", stranger).await, proxy.kind() == Kind::Envoy);
    told
}

#[tokio::test(flavor = "multi_thread")]
async fn each_use_of_a_name_has_a_secret_of_its_own() {
    let [envoy, subject] = both();
    for api_type in ["GRPC", "DELTA_GRPC"] {
        let (expected, actual) = (observe(&envoy, api_type).await, observe(&subject, api_type).await);
        assert_eq!(actual, expected, "{api_type}");
        let wanted = ["1 shows: false", "1 asks: true", "1 asks: false", "2 streams", "2 shows: true"];
        assert_eq!(actual, wanted, "{api_type}");
    }
}
