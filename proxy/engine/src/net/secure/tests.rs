use std::future::poll_fn;
use std::io::IoSlice;
use std::sync::Arc;

use bytes::BytesMut;
use proxy_core::stats::Registry;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};
use tokio::net::UnixStream;

use super::*;
use crate::net::connection::{Connection, Socket};
use crate::net::outbox::{end_turn, open};

/// Both ends of a session whose handshake is done.
async fn pair() -> (Connection, Connection) {
    let issued = rcgen::generate_simple_self_signed(vec!["a.test".to_owned()]).unwrap();
    let certificate = issued.cert.der().clone();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(issued.signing_key.serialize_der()));
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).unwrap();
    let provider = Arc::new(default_provider());
    let client = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let server = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    let client = ClientConnection::new(Arc::new(client), "a.test".try_into().unwrap()).unwrap();
    let server = ServerConnection::new(Arc::new(server)).unwrap();
    let stats: Cells<SslStats> = Registry::new(0).scope("ssl").cells();
    let (near, far) = UnixStream::pair().unwrap();
    let (near, far) = (Connection::new(Socket::Unix(near)), Connection::new(Socket::Unix(far)));
    let (client, server) = (Secure::new(client, stats.clone()), Secure::new(server, stats));
    let (one, other) = tokio::join!(
        poll_fn(|cx| client.poll_handshake(near.link(), cx)),
        poll_fn(|cx| server.poll_handshake(far.link(), cx))
    );
    one.and(other).unwrap();
    let (mut near, mut far) = (near, far);
    near.secure(client);
    far.secure(server);
    (near, far)
}

/// What is there to be read, without waiting for more.
async fn arrived(connection: &Connection) -> BytesMut {
    let mut all = BytesMut::new();
    poll_fn(|cx| {
        while matches!(connection.poll_read(cx, &mut all), Poll::Ready(Ok(1..))) {}
        Poll::Ready(())
    })
    .await;
    all
}

async fn write(connection: &Connection, bytes: &[u8]) {
    let written = poll_fn(|cx| connection.poll_write(cx, &[IoSlice::new(bytes)])).await;
    assert_eq!(written.unwrap(), bytes.len());
}

#[tokio::test]
async fn what_is_posted_is_encrypted_and_leaves_in_order() {
    open();
    let (near, far) = pair().await;
    // (What sessions say behind the handshake is read first.)
    assert_eq!(arrived(&near).await, "");

    assert!(near.post(b"one "));
    assert_eq!(arrived(&far).await, "");
    end_turn();
    poll_fn(|cx| far.poll_readable(cx)).await.unwrap();
    assert_eq!(arrived(&far).await, "one ");

    assert!(near.post(b"two "));
    assert!(!near.post(b"three "), "it is encrypted already, and must be written behind the other");
    write(&near, b"three ").await;
    assert!(near.post(b"four"), "nothing waits any more");
    near.shutdown_write().unwrap();
    let mut all = BytesMut::new();
    while poll_fn(|cx| far.poll_read(cx, &mut all)).await.unwrap() > 0 {}
    assert_eq!(all, "two three four");
    assert!(!near.post(&[0; outbox::SMALL]), "a record is longer than what is in it");
}
