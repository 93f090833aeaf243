//! Who may call whom: by the identities of both ends, enforced by the proxy of the one that is called.

use integration::mesh::programs::Program;
use integration::mesh::{Mode, Protocol, Service};

use crate::{mesh, url};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn strangers_are_answered_403_or_closed() {
    let (mut mesh, _) = mesh().await;
    mesh.services.clear();
    mesh.get_mut("web").unwrap().run(Program::Echo, 7000).unwrap();
    let web = mesh.serve(Service::new("web", Protocol::Http, 8080, &["web"]).allow(&["client"]));
    let echo = mesh.serve(Service::new("echo", Protocol::Tcp, 7000, &["web"]).allow(&["client"]));
    mesh.inject(&["client", "stranger", "web"]).unwrap();
    for version in [0, 1] {
        let client = mesh.get("client").unwrap();
        assert!(client.curl(&[&url(web[version])]).unwrap().ends_with("|200"));
        assert_eq!(client.tcp(echo[version], b"words").unwrap(), "words");
        let stranger = mesh.get("stranger").unwrap();
        assert_eq!(stranger.curl(&[&url(web[version])]).unwrap(), "RBAC: access denied|403");
        let answer = stranger.tcp(echo[version], b"words");
        assert!(!matches!(&answer, Ok(text) if !text.is_empty()), "{answer:?}");
    }
    let server = mesh.get("web").unwrap();
    assert_eq!(server.stat("http.inbound_8080.rbac.denied").unwrap(), 2);
    assert_eq!(server.stat("http.inbound_8080.rbac.allowed").unwrap(), 2);
    assert_eq!(server.stat("tcp.rbac.denied").unwrap(), 2);
    assert_eq!(server.stat("tcp.rbac.allowed").unwrap(), 2);
}

/// Who has no proxy has no identity: refused by the handshake, or let in plainly where the mode permits it, and by no policy.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn who_has_no_proxy_is_let_in_where_the_mode_permits_it() {
    let (mut mesh, _) = mesh().await;
    mesh.inject(&["client", "web"]).unwrap();
    let at = |mesh: &integration::mesh::Mesh| {
        mesh.get("web").unwrap().addresses.each().map(|ip| (ip, 8080).into())
    };
    for at in at(&mesh) {
        let answer = mesh.get("stranger").unwrap().curl(&[&url(at)]).unwrap();
        assert_eq!(answer, "|000", "closed without a word");
    }
    mesh.mode = Mode::Permissive;
    mesh.push().unwrap();
    mesh.until("web", "listener_manager.listener_in_place_updated", 1).await.unwrap();
    for at in at(&mesh) {
        let answer = mesh.get("stranger").unwrap().curl(&[&url(at)]).unwrap();
        assert!(answer.starts_with("8080|127.0.0.6||") || answer.starts_with("8080|::6||"), "{answer}");
        assert!(answer.ends_with("|200"), "{answer}");
    }
    mesh.services[0].allowed = Some(vec!["client".to_owned()]);
    mesh.push().unwrap();
    mesh.until("web", "listener_manager.listener_in_place_updated", 2).await.unwrap();
    for at in at(&mesh) {
        assert_eq!(mesh.get("stranger").unwrap().curl(&[&url(at)]).unwrap(), "RBAC: access denied|403");
    }
}
