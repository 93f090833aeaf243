//! Requests to the admin interface: any path and any query are answered, and JSON is JSON.
#![no_main]

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use arbitrary::Arbitrary;
use http::Method;
use libfuzzer_sys::fuzz_target;
use outrigger_fuzz::h1::responses;
use prost_types::Any;
use proxy::admin::*;
use proxy_core::address::Address;
use proxy_core::runtime::{Runtime, RuntimeLayer};
use proxy_core::stats::{Registry, Unit};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::runtime::Runtime as Tokio;
use tokio::task::LocalSet;

#[derive(Arbitrary, Debug)]
struct Input {
    path: u8,
    other: String,
    parameters: Vec<(u8, String, u8, String)>,
    post: bool,
}

const PATHS: [&str; 21] = [
    "/stats",
    "/stats/prometheus",
    "/config_dump",
    "/clusters",
    "/listeners",
    "/logging",
    "/runtime",
    "/runtime_modify",
    "/server_info",
    "/init_dump",
    "/certs",
    "/memory",
    "/ready",
    "/reset_counters",
    "/healthcheck/fail",
    "/drain_listeners",
    "/stats/recentlookups",
    "/help",
    "/",
    "/hot_restart_version",
    "/reopen_logs",
];
const NAMES: [&str; 16] = [
    "format",
    "filter",
    "usedonly",
    "type",
    "histogram_buckets",
    "hidden",
    "resource",
    "mask",
    "name_regex",
    "include_eds",
    "level",
    "paths",
    "graceful",
    "text_readouts",
    "inboundonly",
    "x",
];
const VALUES: [&str; 14] = [
    "json",
    "prometheus",
    "text",
    "html",
    "Counters",
    "summary",
    "detailed",
    "static_clusters",
    "bootstrap",
    "dynamic_listeners",
    "debug",
    "admin:trace,main:off",
    "clusters,node.id",
    "^a.*$",
];

struct Fake {
    registry: Arc<Registry>,
    runtime: Arc<Runtime>,
}

impl AdminState for Fake {
    fn state(&self) -> ServerState {
        ServerState::Live
    }

    fn server_info(&self) -> ServerInfo {
        ServerInfo {
            version: "v".to_owned(),
            uptime: Duration::from_secs(1),
            uptime_all_epochs: Duration::from_secs(1),
            options: CommandLineOptions::default(),
            node: serde_json::json!({"id": "n"}),
        }
    }

    fn hot_restart_version(&self) -> String {
        "disabled".to_owned()
    }

    fn stats(&self) -> &Arc<Registry> {
        &self.registry
    }

    fn runtime(&self) -> &Arc<Runtime> {
        &self.runtime
    }

    fn memory(&self) -> MemoryUse {
        MemoryUse::default()
    }

    fn clusters(&self) -> Vec<ClusterStatus> {
        Vec::new()
    }

    fn listeners(&self) -> Vec<ListenerStatus> {
        vec![ListenerStatus {
            name: "l".to_owned(),
            local_address: Address::Pipe("/a \"b\"".into()),
            additional_local_addresses: Vec::new(),
        }]
    }

    fn config_dump(&self, _: Endpoints) -> ConfigDump {
        let cluster =
            xds_api::envoy::config::cluster::v3::Cluster { name: "c".to_owned(), ..Default::default() };
        let resource = |config: Any| Resource {
            name: "c".to_owned(),
            version_info: "1".to_owned(),
            config: Arc::new(config),
            last_updated: None,
            error: None,
        };
        ConfigDump {
            bootstrap: Some(resource(outrigger_fuzz::any(
                &xds_api::envoy::config::bootstrap::v3::Bootstrap::default(),
            ))),
            static_clusters: vec![resource(outrigger_fuzz::any(&cluster))],
            ..ConfigDump::default()
        }
    }

    fn certificates(&self) -> Vec<CertificateEntry> {
        Vec::new()
    }

    fn unready_targets(&self) -> Vec<UnreadyTargets> {
        Vec::new()
    }

    fn loggers(&self) -> Vec<(String, LogLevel)> {
        vec![("admin".to_owned(), LogLevel::Info), ("main".to_owned(), LogLevel::Off)]
    }

    fn set_logger(&self, name: &str, _: LogLevel) -> bool {
        name == "admin"
    }

    fn set_all_loggers(&self, _: LogLevel) {}

    fn set_health_check_failing(&self, _: bool) {}

    fn drain_listeners(&self, _: DrainRequest) {}

    fn reopen_logs(&self) {}

    fn quit(&self) {}
}

struct Rig {
    runtime: Tokio,
    local: LocalSet,
    directory: tempfile::TempDir,
}

thread_local! {
    static RIG: Rig = rig();
}

fn rig() -> Rig {
    let directory = tempfile::tempdir().expect("a directory");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let registry = Registry::new(1);
    // They live as long as the process.
    std::mem::forget((registry.counter("a.b"), registry.histogram("h.\"q", Unit::Milliseconds)));
    let layer = RuntimeLayer { name: "adm".to_owned(), values: Default::default(), is_admin: true };
    let state = Fake { registry, runtime: Arc::new(Runtime::new(vec![layer])) };
    let server =
        AdminServer::new(Rc::new(state), AdminOptions { allow_paths: Vec::new(), access_logs: Vec::new() });
    let path = directory.path().join("admin");
    let local = LocalSet::new();
    local.block_on(&runtime, async {
        let listener = UnixListener::bind(path).expect("a socket");
        tokio::task::spawn_local(async move { server.serve_unix(listener).await });
    });
    Rig { runtime, local, directory }
}

fuzz_target!(|input: Input| {
    let known = |number: u8, text: &str, words: &[&str]| -> String {
        match number {
            0..200 => words[usize::from(number) % words.len()].to_owned(),
            _ => text.to_owned(),
        }
    };
    let parameters: Vec<String> = (input.parameters.iter().take(6))
        .map(|(number, name, which, value)| {
            format!("{}={}", known(*number, name, &NAMES), known(*which, value, &VALUES))
        })
        .collect();
    let target = format!("{}?{}", known(input.path, &input.other, &PATHS), parameters.join("&"));
    if !target.starts_with('/') || !target.bytes().all(|byte| byte.is_ascii_graphic()) {
        return;
    }
    let method = if input.post { Method::POST } else { Method::GET };
    let answer = RIG.with(|rig| rig.local.block_on(&rig.runtime, ask(rig, &method, &target)));
    let all = responses(&answer, std::slice::from_ref(&method), true);
    let [response] = &*all else { panic!("{target}: {all:?}") };
    assert!(response.complete, "{target}");
    if response.fields.iter().any(|field| field == "content-type: application/json") {
        serde_json::from_slice::<serde_json::Value>(&response.body)
            .unwrap_or_else(|error| panic!("{target}: {error}"));
    }
});

async fn ask(rig: &Rig, method: &Method, target: &str) -> Vec<u8> {
    let mut client = UnixStream::connect(rig.directory.path().join("admin")).await.expect("is listening");
    let request =
        format!("{method} {target} HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
    client.write_all(request.as_bytes()).await.expect("is listening");
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).await.expect("an answer");
    answer
}
