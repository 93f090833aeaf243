use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::sync::Mutex;

use hyper::service::service_fn;
use prost::Message;
use prost_types::Any;
use tokio::io::duplex;
use xds_api::envoy::config::cluster::v3::Cluster;

use super::*;
use crate::client::grpc::Io;
use crate::protocol::{Event, Verdict};

const PATIENCE: Duration = Duration::from_secs(20);

/// Stands in for JSON: what matters here is who calls it, and when.
struct Binary;

impl Json for Binary {
    fn encode(&self, request: &DiscoveryRequest) -> Result<Vec<u8>, String> {
        Ok(request.encode_to_vec())
    }

    fn decode(&self, bytes: &[u8]) -> Result<DiscoveryResponse, String> {
        DiscoveryResponse::decode(bytes).map_err(|error| error.to_string())
    }
}

/// Answers each poll with the next of these statuses and bodies (304 when they run out), over pipes in memory.
#[derive(Default)]
struct Server {
    answers: Mutex<VecDeque<(u16, Vec<u8>)>>,
    heard: Mutex<Vec<(String, String, DiscoveryRequest)>>,
    failures: Mutex<usize>,
    polled: tokio::sync::Notify,
}

impl Observer for Server {
    fn update_failure(&self, _: &TypeUrl) {
        *self.failures.lock().unwrap() += 1;
    }
}

struct Pipe(Arc<Server>);

impl Dial for Pipe {
    fn dial(&self, _: &str, _: http::Version) -> BoxFuture<'static, io::Result<Box<dyn Io>>> {
        let server = self.0.clone();
        let (near, far) = duplex(1 << 16);
        let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
            let server = server.clone();
            async move {
                let path = request.uri().path().to_owned();
                let host = request.headers()[header::HOST].to_str().unwrap().to_owned();
                let body = request.into_body().collect().await.unwrap().to_bytes();
                server.heard.lock().unwrap().push((path, host, DiscoveryRequest::decode(body).unwrap()));
                server.polled.notify_one();
                let (status, body) = server.answers.lock().unwrap().pop_front().unwrap_or((304, Vec::new()));
                let response = http::Response::builder().status(status).body(Full::new(Bytes::from(body)));
                Ok::<_, Infallible>(response.unwrap())
            }
        });
        tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(far), service));
        Box::pin(std::future::ready(Ok(Box::new(near) as Box<dyn Io>)))
    }
}

fn response(version: &str, name: &str) -> Vec<u8> {
    let cluster = Cluster { name: name.into(), ..Cluster::default() };
    let any = Any { type_url: TypeUrl::CLUSTER.as_str().into(), value: cluster.encode_to_vec() };
    DiscoveryResponse { version_info: version.into(), resources: vec![any], ..Default::default() }
        .encode_to_vec()
}

// The clock stands while anything can run, so a poll never overtakes a verdict.
#[tokio::test(start_paused = true)]
async fn polls_carry_the_last_good_version() {
    let server = Arc::new(Server::default());
    server.answers.lock().unwrap().extend([
        (500, Vec::new()),
        (200, b"\xff".to_vec()),
        (200, response("1", "a")),
        (304, Vec::new()),
        (200, response("2", "bad")),
        (200, response("3", "b")),
    ]);
    let config = RestConfig::new("xds_cluster", &TypeUrl::CLUSTER, Duration::from_millis(2));
    let node = Node { id: "test-id".into(), ..Node::default() };
    let (client, mut events, driver) =
        client(node, config, Arc::new(Pipe(server.clone())), Arc::new(Binary), server.clone()).unwrap();
    let _driver = tokio::spawn(driver.run());
    client.subscribe(&TypeUrl::CLUSTER, vec!["*".into()], Duration::ZERO);
    let mut versions = Vec::new();
    while versions.len() < 3 {
        match timeout(PATIENCE, events.next()).await.unwrap().unwrap() {
            Event::Update(update) => {
                let bad = update.upserts[0].name == "bad";
                let rejected = if bad { vec![("bad".into(), "no".into())] } else { Vec::new() };
                client.verdict(Verdict::reject(&update, rejected));
                versions.push(update.version);
            }
            Event::Connected => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(versions, ["1", "2", "3"]);
    // The poll after the last response says what is held now.
    while server.heard.lock().unwrap().len() < 7 {
        timeout(PATIENCE, server.polled.notified()).await.expect("another poll");
    }
    let heard = server.heard.lock().unwrap();
    let told: Vec<_> = heard.iter().take(7).map(|(_, _, request)| request.version_info.as_str()).collect();
    assert_eq!(told, ["", "", "", "1", "1", "1", "3"]);
    for (path, host, request) in heard.iter() {
        assert_eq!((path.as_str(), host.as_str()), ("/v3/discovery:clusters", "xds_cluster"));
        assert_eq!(request.node.as_ref().map(|node| node.id.as_str()), Some("test-id"));
        assert_eq!((request.response_nonce.as_str(), &request.error_detail), ("", &None));
    }
    assert_eq!(*server.failures.lock().unwrap(), 2);
}

#[test]
fn virtual_hosts_cannot_be_polled() {
    assert_eq!(path(&TypeUrl::VIRTUAL_HOST), None);
    assert_eq!(path(&TypeUrl::SCOPED_ROUTE_CONFIGURATION), Some("/v3/discovery:scoped-routes"));
}
