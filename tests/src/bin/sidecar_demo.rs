//! The mesh of sidecars, to watch: plain programs in pods, what is on the wire between them, who may call whom, and what
//! happens when identities, the control plane and sidecars change underneath. It takes root; everything is gone afterwards.

use std::io::Write;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use integration::expect::{SOON, eventually};
use integration::mesh::load::Load;
use integration::mesh::programs::Program;
use integration::mesh::wire::Wire;
use integration::mesh::{Egress, Mesh, OUTSIDE, Protocol, Service};
use integration::process::Binary;
use integration::tls::Authority;

fn say(text: &str) {
    // whoever closed stdout does not want to hear it
    let _ = writeln!(std::io::stdout(), "{text}");
}

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build();
    let demonstrate = async {
        tokio::select! {
            shown = demonstrate() => shown,
            _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
        }
    };
    match runtime.map_err(Into::into).and_then(|runtime| runtime.block_on(demonstrate)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("FAILED: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

async fn demonstrate() -> Result<()> {
    say(
        "Pods, each a network namespace with an unmodified program, redirection by the kernel and an Outrigger of its own",
    );
    let mut mesh = Mesh::new(&Binary::subject()?).await?;
    for name in ["client", "stranger", "web"] {
        let pod = mesh.pod(name)?;
        say(&format!("  {name:9} {} {}", pod.addresses.v4, pod.addresses.v6));
    }
    mesh.get_mut("web")?.run(Program::Nginx, 8080)?;
    mesh.get_mut("web")?.run(Program::Echo, 7000)?;
    mesh.outside()?.run(Program::HttpServer, 8000)?;
    let web = mesh.serve(Service::new("web", Protocol::Http, 8080, &["web"]).allow(&["client", "web"]));
    let echo = mesh.serve(Service::new("echo", Protocol::Tcp, 7000, &["web"]).allow(&["client"]));
    mesh.inject(&["client", "stranger", "web"])?;
    let url = format!("http://{}/", web[0]);

    say("\nWho may call whom");
    let mut wire = Wire::watch(&mesh.node)?;
    for name in ["client", "stranger", "web"] {
        let answer = mesh.get(name)?.curl(&[&url])?;
        say(&format!("  {name:9} curl {url}  ->  {}", answer.trim().replace('\n', " ")));
        ensure!(answer.ends_with(if name == "stranger" { "|403" } else { "|200" }), "{answer}");
    }
    for name in ["client", "stranger"] {
        let answer = mesh.get(name)?.tcp(echo[1], b"bytes");
        say(&format!("  {name:9} \"bytes\" to {}  ->  {answer:?}", echo[1]));
        ensure!((name == "client") == answer.is_ok_and(|text| text == "bytes"), "{name}");
    }

    say("\nOn the wire");
    ensure!(!wire.saw(b"GET / HTTP")? && !wire.saw(b"bytes")?, "in the clear");
    for ((from, to), bytes) in wire.streams()?.iter().filter(|((_, to), _)| [8080, 7000].contains(&to.port()))
    {
        let first: Vec<String> = bytes.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
        say(&format!("  {from} -> {to}: {} bytes, the first {} (TLS)", bytes.len(), first.join(" ")));
    }

    say("\nOut of the mesh");
    let outside = format!("http://{}:8000/", OUTSIDE.v4);
    for egress in [Egress::AllowAny, Egress::RegistryOnly] {
        mesh.egress = egress;
        mesh.push()?;
        let wanted = if egress == Egress::AllowAny { "|200" } else { "|000" };
        let client = mesh.get("client")?;
        let seen = async || {
            client.curl(&["--output", "/dev/null", &outside]).ok().filter(|answer| answer.ends_with(wanted))
        };
        eventually("the new configuration", SOON, seen).await?;
        say(&format!("  {egress:?}: curl {outside}  ->  {wanted}"));
    }
    change(&mut mesh, &web).await?;

    say("\nStopping");
    for pod in &mut mesh.pods {
        pod.stop_proxy().await.with_context(|| pod.name.clone())?;
    }
    say("  all sidecars ended well; namespaces and programs go with this process");
    Ok(())
}

async fn change(mesh: &mut Mesh, web: &[std::net::SocketAddr]) -> Result<()> {
    say("\nChanges under load: none of these requests fails");
    let load = Load::start(mesh.get("client")?, web, "web", 4)?;
    load.more(500).await?;
    for _ in 0..5 {
        for pod in ["client", "stranger", "web"] {
            mesh.identify(pod)?;
        }
        mesh.push()?;
        load.more(200).await?;
    }
    say("  certificates rotated 5 times");
    mesh.roots.push(Authority::new("next")?);
    mesh.push()?;
    load.more(200).await?;
    say("  everybody believes a second root");
    mesh.stop_management();
    load.more(500).await?;
    say("  the management server is gone");
    mesh.start_management()?;
    load.more(500).await?;
    say("  and back");
    say(&format!("  {} requests", load.end()?));
    mesh.get("web")?.proxy()?.signal(rustix::process::Signal::KILL)?;
    mesh.get_mut("web")?.proxy = None;
    let url = format!("http://{}/", web[0]);
    say(&format!(
        "  without the server's sidecar: {}",
        mesh.get("client")?.curl(&["--output", "/dev/null", &url])?
    ));
    mesh.start_proxy("web", &[])?;
    let answer = mesh.get("client")?.curl(&["--output", "/dev/null", &url])?;
    say(&format!("  with a new one: {answer}"));
    ensure!(answer.ends_with("|200"), "{answer}");
    Ok(())
}
