//! Clients and servers that people use, with the proxy between them: curl, nghttp2's tools, wrk, Go, Node.js, Python.

use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration::config::{H2_CLUSTER, HttpListener, bootstrap, cluster, fill};
use integration::expect::{SOON, eventually};
use integration::process::{Binary, Proxy};

use crate::rig::{Program, built, installed, node, python};

/// For a program that does much on a busy machine.
const LIMIT: Duration = Duration::from_secs(120);

const GIB: u64 = 1 << 30;

/// How much more memory the proxy may hold while a large body passes: a window of HTTP/2 (16 MiB) on each side, and as much
/// again for what the allocator keeps of a body that passed before. Envoy takes 44 MiB, Outrigger 40.
const GROWTH_KIB: u64 = 64 * 1024;

/// A cluster that gets trailers too.
const H1_CLUSTER: &str = r#"typed_extension_protocol_options:
  envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
    "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
    explicit_http_config: {http_protocol_options: {enable_trailers: true}}
"#;

/// A server of several ports: its name in routes, the version of HTTP that it speaks, and where it is.
struct Upstream {
    name: &'static str,
    version: u8,
    addr: SocketAddr,
}

fn upstream(name: &'static str, version: u8, port: &str) -> Result<Upstream> {
    Ok(Upstream { name, version, addr: SocketAddr::from(([127, 0, 0, 1], port.parse()?)) })
}

/// A proxy that leads `/NAME..` to each upstream, without the `/NAME`.
async fn proxy_to(upstreams: &[Upstream], options: &str) -> Result<Proxy> {
    let (mut routes, mut clusters) = (String::new(), Vec::new());
    for Upstream { name, version, .. } in upstreams {
        // what gRPC calls names its service, all else begins with the name of the upstream
        let matching = match *name {
            "grpc" => "match: {prefix: /, grpc: {}}\n  route: {timeout: 0s, cluster: grpc}".to_owned(),
            name => format!(
                "match: {{path_separated_prefix: /{name}}}\n  route: {{timeout: 0s, cluster: {name}, regex_rewrite: {{pattern: {{regex: '^/{name}/*'}}, substitution: /}}}}"
            ),
        };
        routes.push_str(&format!("- {matching}\n"));
        clusters.push(cluster(name, name, if *version == 2 { H2_CLUSTER } else { H1_CLUSTER }));
    }
    let listener = HttpListener::new("http", &routes).options(options);
    let ports = upstreams.iter().map(|upstream| (upstream.name, upstream.addr.port().to_string()));
    Proxy::start(&Binary::subject()?, &fill(&bootstrap(&[listener.yaml()], &clusters, ""), ports)).await
}

/// The Go servers: HTTP under two names, for each version, and gRPC.
async fn go_servers() -> Result<(Program, Vec<Upstream>)> {
    let mut program = Program::start(built("webserver")?)?;
    let ready = program.hears("ready ", SOON).await?;
    let (web, rpc) = ready.split_once(' ').context("two addresses")?;
    let (web, rpc) = (web.rsplit(':').next().unwrap_or(web), rpc.rsplit(':').next().unwrap_or(rpc));
    let upstreams = vec![upstream("go1", 1, web)?, upstream("go2", 2, web)?, upstream("grpc", 2, rpc)?];
    Ok((program, upstreams))
}

/// The Python servers: WebSocket and gRPC.
async fn python_servers() -> Result<(Program, Vec<Upstream>)> {
    let mut program = Program::start(python("servers.py")?)?;
    let ready = program.hears("ready ", LIMIT).await?;
    let (web, rpc) = ready.split_once(' ').context("two ports")?;
    Ok((program, vec![upstream("ws", 1, web)?, upstream("grpc", 2, rpc)?]))
}

/// Runs a program that has to succeed; what it said.
async fn run(command: Command) -> Result<String> {
    Program::start(command)?.finish(LIMIT).await
}

/// Runs curl; what it wrote, with version and status before the body.
async fn curl(proxy: &Proxy, path: &str, arguments: &[&str]) -> Result<String> {
    let mut command = installed("curl");
    command.args(["--silent", "--show-error", "--no-buffer", "--max-time", "110"]);
    command.args(arguments).arg(url(proxy, path)?);
    run(command).await
}

fn url(proxy: &Proxy, path: &str) -> Result<String> {
    Ok(format!("http://{}{path}", proxy.listener("http")?))
}

const H2: &str = "--http2-prior-knowledge";

#[tokio::test]
async fn curl_through_both_versions() -> Result<()> {
    let (server, upstreams) = go_servers().await?;
    let proxy = proxy_to(&upstreams, "").await?;
    let (write, what) = ("--write-out", "|%{http_version} %{http_code}");
    for (upstream, theirs) in [("go1", "HTTP/1.1"), ("go2", "HTTP/2.0")] {
        for (option, ours) in [("--http1.1", "1.1"), (H2, "2"), ("--http2", "1.1")] {
            let small = curl(&proxy, &format!("/{upstream}/small"), &[option, write, what]).await?;
            ensure!(small.trim() == format!("GET {theirs}|{ours} 200"), "{upstream} {option}: {small}");
            let head = curl(&proxy, &format!("/{upstream}/small"), &[option, "--head", write, what]).await?;
            ensure!(head.contains(&format!("|{ours} 200")), "{upstream} {option}: {head}");
            let form = ["--data", "a=b", "--header", "expect: 100-continue", option, write, what];
            let upload = curl(&proxy, &format!("/{upstream}/upload"), &form).await?;
            ensure!(upload.starts_with("3 ") && upload.contains(" 200"), "{upstream} {option}: {upload}");
            let chunked = ["--data", "abcd", "--header", "transfer-encoding: chunked", option, write, what];
            if option != H2 {
                let upload = curl(&proxy, &format!("/{upstream}/upload"), &chunked).await?;
                ensure!(upload.starts_with("4 ") && upload.contains(" 200"), "{upstream} {option}: {upload}");
            }
        }
    }
    proxy.stop().await?;
    server.finish(SOON).await.map(drop)
}

/// Passes 1 GiB both ways; says how much memory the proxy held before and meanwhile.
async fn large_bodies(upstream: &str, option: &str) -> Result<String> {
    let (_server, upstreams) = go_servers().await?;
    let proxy = Arc::new(proxy_to(&upstreams, "").await?);
    // what the first connections and buffers take is not growth
    curl(&proxy, &format!("/{upstream}/download?size=1000000"), &[option, "--output", "/dev/null"]).await?;
    let before = proxy.resident_kib()?;
    let done = Arc::new(AtomicBool::new(false));
    let watcher = tokio::spawn(watch_memory(proxy.clone(), done.clone()));

    let size = ["--output", "/dev/null", "--write-out", "%{size_download}"];
    let download = [&[option][..], &size].concat();
    let got = curl(&proxy, &format!("/{upstream}/download?size={GIB}"), &download).await?;
    ensure!(got.trim() == GIB.to_string(), "{got} bytes came down");

    let hole = tempfile::NamedTempFile::new()?;
    hole.as_file().set_len(GIB)?;
    let file = hole.path().to_str().context("not UTF-8")?;
    let got = curl(&proxy, &format!("/{upstream}/upload"), &[option, "--upload-file", file]).await?;
    ensure!(got.starts_with(&format!("{GIB} ")), "{got} went up");

    done.store(true, Ordering::Relaxed);
    let most = watcher.await??;
    let memory = format!("{upstream} {option}: {before} KiB before, {most} KiB at most");
    ensure!(most < before + GROWTH_KIB, "{memory}");
    Ok(memory)
}

async fn watch_memory(proxy: Arc<Proxy>, done: Arc<AtomicBool>) -> Result<u64> {
    let mut most = 0;
    let mut next = tokio::time::interval(Duration::from_millis(10));
    while !done.load(Ordering::Relaxed) {
        next.tick().await;
        most = most.max(proxy.resident_kib()?);
    }
    Ok(most)
}

#[tokio::test]
async fn a_gibibyte_both_ways_over_http1() -> Result<()> {
    let memory = large_bodies("go1", "--http1.1").await?;
    println!("{memory}");
    Ok(())
}

#[tokio::test]
async fn a_gibibyte_both_ways_over_http2() -> Result<()> {
    let memory = large_bodies("go2", H2).await?;
    println!("{memory}");
    Ok(())
}

#[tokio::test]
async fn h2load_and_wrk() -> Result<()> {
    let (_server, upstreams) = go_servers().await?;
    let proxy = proxy_to(&upstreams, "").await?;
    for upstream in ["go1", "go2"] {
        for version in [&["--h1"][..], &["-m", "16"]] {
            let mut command = installed("h2load");
            command.args(["-n", "4000", "-c", "8"]).args(version);
            command.arg(url(&proxy, &format!("/{upstream}/small"))?);
            let said = run(command).await?;
            let all = "4000 total, 4000 started, 4000 done, 4000 succeeded, 0 failed, 0 errored, 0 timeout";
            ensure!(said.contains(all) && said.contains("4000 2xx"), "{upstream} {version:?}:\n{said}");
        }
        let mut command = installed("wrk");
        command.args(["-t", "1", "-c", "16", "-d", "1s"]).arg(url(&proxy, &format!("/{upstream}/small"))?);
        let said = run(command).await?;
        ensure!(!said.contains("Socket errors") && !said.contains("Non-2xx"), "{said}");
        ensure!(said.contains("requests in "), "{said}");
    }
    ensure!(proxy.admin().stat("http.http.downstream_rq_5xx").await? == 0);
    proxy.stop().await
}

#[tokio::test]
async fn nghttp_to_nghttpd() -> Result<()> {
    let files = tempfile::tempdir()?;
    let content = "0123456789abcdef".repeat(20_000);
    std::fs::write(files.path().join("file"), &content)?;
    let mut command = installed("nghttpd");
    command.args(["--no-tls", "--address=127.0.0.1", "--padding=100", "--max-concurrent-streams=2"]);
    command.args(["--trailer=x-end: here", "--echo-upload", "--htdocs"]).arg(files.path()).arg("0");
    let server = Program::start(command)?;
    let port = eventually("nghttpd to listen", SOON, async || server.listening_port()).await?;
    let proxy = proxy_to(&[upstream("nghttpd", 2, &port.to_string())?], "").await?;

    let mut command = installed("nghttp");
    command.args(["--padding=100", "--continuation", "--trailer=x-end: there", "--multiply=20"]);
    command.args(["--data"]).arg(files.path().join("file")).arg(url(&proxy, "/nghttpd/echo")?);
    let said = run(command).await?;
    for digit in "0123456789abcdef".chars() {
        ensure!(
            said.matches(digit).count() == 20 * 20_000,
            "not every upload came back: {} bytes",
            said.len()
        );
    }

    let mut command = installed("nghttp");
    command.args(["--verbose", "--no-dep", "--window-bits=10"]).arg(url(&proxy, "/nghttpd/file")?);
    let said = run(command).await?;
    ensure!(said.contains("x-end: here"), "no trailer:\n{said}");
    ensure!(said.contains(&content[..1000]), "no content:\n{said}");
    proxy.stop().await
}

#[tokio::test]
async fn go_clients() -> Result<()> {
    let (_server, upstreams) = go_servers().await?;
    let trailers = "http_protocol_options: {enable_trailers: true}\n";
    let proxy = proxy_to(&upstreams, trailers).await?;
    for upstream in ["go1", "go2"] {
        let mut command = built("webclient")?;
        command.arg(url(&proxy, &format!("/{upstream}"))?);
        let said = run(command).await?;
        ensure!(said.contains("HTTP/1 ok") && said.contains("HTTP/2 ok"), "{said}");
    }
    // the case of gRPC's interoperability that needs a server which says who it is
    let mut command = built("client")?;
    command.arg(format!("-server_port={}", proxy.listener("http")?.port()));
    command.args(["-server_host=127.0.0.1", "-test_case=pick_first_unary"]);
    run(command).await?;
    proxy.stop().await
}

#[tokio::test]
async fn node_clients_and_servers() -> Result<()> {
    let mut server = Program::start(node("servers.js")?)?;
    let ready = server.hears("ready ", LIMIT).await?;
    let (one, two) = ready.split_once(' ').context("two ports")?;
    let upstreams = [upstream("node1", 1, one)?, upstream("node2", 2, two)?];
    let proxy = proxy_to(&upstreams, "upgrade_configs: [{upgrade_type: interop}]").await?;
    let mut command = node("clients.js")?;
    command.arg(proxy.listener("http")?.port().to_string());
    let said = run(command).await?;
    ensure!(said.contains("node ok"), "{said}");
    proxy.stop().await
}

async fn python_client(kind: &str, proxy: &Proxy) -> Result<()> {
    let mut command = python("clients.py")?;
    command.args([kind, &proxy.listener("http")?.port().to_string()]);
    let said = run(command).await?;
    ensure!(said.contains(&format!("{kind} ok")), "{said}");
    Ok(())
}

#[tokio::test]
async fn python_httpx() -> Result<()> {
    let (_server, upstreams) = go_servers().await?;
    let proxy = proxy_to(&upstreams, "").await?;
    python_client("httpx", &proxy).await?;
    proxy.stop().await
}

#[tokio::test]
async fn python_websockets_and_grpcio() -> Result<()> {
    let (_server, upstreams) = python_servers().await?;
    let proxy = proxy_to(&upstreams, "upgrade_configs: [{upgrade_type: websocket}]").await?;
    python_client("websockets", &proxy).await?;
    python_client("grpcio", &proxy).await?;
    proxy.stop().await
}
