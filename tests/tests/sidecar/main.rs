//! A mesh of sidecars on one machine, end to end: unmodified clients and servers, redirection by the kernel, identities over
//! SDS, mutual TLS between pods. What stands for what is told in `integration::mesh`.
//!
//! Nothing here skips itself: it takes root and what `scripts/sidecar.sh` installs (`make test` runs it).

#![expect(clippy::unwrap_used, clippy::panic, reason = "what fails in a helper fails its test")]

mod access;
mod addresses;
mod changes;
mod istio;
mod mtls;
mod osm;
mod server_first;
mod tproxy;

use integration::mesh::programs::Program;
use integration::mesh::{Mesh, Protocol, Service};
use integration::process::Binary;

/// A mesh of a client's pod, `web`, and one that nobody allows anything, `stranger`. `web` has nginx on 8080, for HTTP.
async fn mesh() -> (Mesh, Service) {
    let mut mesh = Mesh::new(&Binary::subject().unwrap()).await.unwrap();
    for name in ["client", "stranger", "web"] {
        mesh.pod(name).unwrap();
    }
    mesh.get_mut("web").unwrap().run(Program::Nginx, 8080).unwrap();
    mesh.serve(Service::new("web", Protocol::Http, 8080, &["web"]));
    let web = mesh.services[0].clone();
    (mesh, web)
}

/// The path `/` of an address.
fn url(at: std::net::SocketAddr) -> String {
    format!("http://{at}/")
}
