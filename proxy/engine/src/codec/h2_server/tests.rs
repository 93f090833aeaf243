use std::future::poll_fn;
use std::rc::Rc;

use proxy_core::stats::Registry;
use tokio::io::AsyncWriteExt;

use super::*;
use crate::codec::h2_guard::{FrameLimits, Guarded, Side, Traffic, is_flood};

const LIMITS: HeadLimits = HeadLimits { fields: 100, bytes: 60 * 1024 };

fn request(uri: &str, fields: &[(&'static str, &str)]) -> Parts {
    let mut request = http::Request::builder().uri(uri);
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

#[test]
fn authority_wins_over_host() {
    for (uri, host, expected) in [
        ("http://a.test/", Some("b.test"), "a.test"),
        ("http://a.test/", None, "a.test"),
        ("/", Some("b.test"), "b.test"),
        ("/", None, ""),
    ] {
        let fields: Vec<_> = host.iter().map(|host| ("host", *host)).collect();
        let head =
            request_head(request(uri, &fields), false, LIMITS, &Cookies::new(Rc::default())).ok().unwrap();
        assert_eq!(head.authority.as_str(), expected, "{uri} {host:?}");
        assert!(!head.headers.contains_key("host"), "{uri} {host:?}");
    }
    assert_eq!(
        request_head(request("/", &[("host", "a/b")]), false, LIMITS, &Cookies::new(Rc::default())).err(),
        Some(Malformed::Invalid("http2.invalid.header.field"))
    );
}

#[test]
fn crumbs_count_and_are_joined() {
    // Four pseudo headers count too.
    let crumbs: Vec<_> = std::iter::repeat_n(("cookie", "a=b"), 96).collect();
    let head = request_head(request("http://a.test/", &crumbs), false, LIMITS, &Cookies::new(Rc::default()))
        .ok()
        .unwrap();
    assert_eq!(head.headers.len(), 1);
    assert_eq!(head.headers["cookie"].len(), 96 * 3 + 95 * 2);
    let crumbs: Vec<_> = std::iter::repeat_n(("cookie", "a=b"), 97).collect();
    let refused =
        request_head(request("http://a.test/", &crumbs), false, LIMITS, &Cookies::new(Rc::default())).err();
    assert_eq!(refused, Some(Malformed::TooManyHeaders));
}

#[tokio::test]
async fn a_flood_ends_the_connection() {
    let limits = FrameLimits {
        empty_frames: 1,
        priority_per_stream: 100,
        window_updates_per_data: 10,
        control_frames: 1000,
    };
    let settings: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
    let ping: &[u8] = &[0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
    for (name, flood) in [("SETTINGS", settings), ("PING", ping)] {
        let (near, mut far) = tokio::io::duplex(1 << 20);
        let registry = Registry::new(1);
        let stats = registry.scope("http2").cells();
        let traffic = Traffic::Downstream(registry.scope("http").cells());
        let guarded = Guarded::new(near, Side::Server, limits, stats, traffic);
        far.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        far.write_all(settings).await.unwrap();
        far.write_all(&flood.repeat(1001)).await.unwrap();
        let mut connection = h2::server::Builder::new().handshake::<_, Bytes>(guarded).await.unwrap();
        let ended = poll_fn(|cx| connection.poll_accept(cx)).await;
        assert!(matches!(&ended, Some(Err(error)) if is_flood(error)), "{name}");
    }
}
