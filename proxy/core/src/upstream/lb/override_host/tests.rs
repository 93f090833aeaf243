use std::rc::Rc;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use prost_types::{Struct, Value, value::Kind};

use crate::address::Address;
use crate::head::{self, RequestHead};
use crate::matcher::RequestHeader;
use crate::metadata::MetadataPath;
use crate::stream_info::{ConnectionInfo, StreamInfo};
use crate::upstream::lb::suite::{balancer, set};
use crate::upstream::lb::{PickCx, Policy, Scheme};
use crate::upstream::{HostHealth, HostQueue, OverrideHosts, OverrideSource};

fn info() -> StreamInfo {
    let address = Address::parse("10.0.0.1:1").unwrap();
    let connection = ConnectionInfo::new(address.clone(), address, "l".into());
    StreamInfo::new(Rc::new(connection), Instant::now(), SystemTime::now())
}

fn path(keys: &[&str]) -> MetadataPath {
    MetadataPath { namespace: "n".into(), path: keys.iter().map(|key| (*key).to_owned()).collect() }
}

fn scheme() -> Scheme {
    let sources = [OverrideSource::Metadata(path(&["a"])), OverrideSource::Metadata(path(&["b"]))];
    let hosts = OverrideHosts { sources: sources.into(), selected: None };
    let fallback = Scheme::Spread {
        policy: Policy::RoundRobin,
        locality_weighted: false,
        fail_on_panic: false,
        slow_start: None,
        zones: None,
    };
    Scheme::OverrideHost { hosts: Arc::new(hosts), fallback: Box::new(fallback) }
}

/// The ports that a request is sent to, one after the other.
fn picks(scheme: &Scheme, listed: &HostQueue, count: usize) -> Vec<u16> {
    let hosts = [(1, 1, HostHealth::Healthy), (2, 1, HostHealth::Unhealthy), (3, 1, HostHealth::Draining)];
    let now = set(None, &hosts, scheme, 0);
    let (mut balancer, mut random) = (balancer(scheme), fastrand::Rng::with_seed(1));
    let mut pick = || {
        let mut cx = PickCx { listed: Some(listed), ..PickCx::new(&mut random) };
        balancer.pick(&now, &mut cx).unwrap().address.port().unwrap()
    };
    (0..count).map(|_| pick()).collect()
}

#[test]
fn listed_hosts_are_taken_in_turn_and_then_the_fallback() {
    let scheme = scheme();
    let mut info = info();
    let text = |text: &str| Value { kind: Some(Kind::StringValue(text.into())) };
    let fields = [
        ("a".to_owned(), text(" 127.0.0.1:3 ,,127.0.0.1:9, nowhere")),
        ("b".to_owned(), text("127.0.0.1:2,127.0.0.1:3")),
    ];
    let queue = |info: &StreamInfo| scheme.override_hosts().unwrap().queue(None, info);
    assert_eq!(picks(&scheme, &queue(&info), 2), [1, 1]);
    info.metadata.merge("n", Struct { fields: fields.into() });
    let listed = queue(&info);
    assert!(!listed.is_done());
    assert_eq!(picks(&scheme, &listed, 5), [3, 2, 3, 1, 1]);
    assert!(listed.is_done());
    let listed = queue(&info);
    assert_eq!(picks(&scheme, &listed, 2), [3, 2]);
    listed.step_back();
    assert_eq!(picks(&scheme, &listed, 3), [2, 3, 1]);
    // (The last one was none of them.)
    listed.step_back();
    assert_eq!(picks(&scheme, &listed, 1), [1]);
}

#[test]
fn headers_are_looked_into_by_their_first_value() {
    let named = RequestHeader::parse("x-hosts").unwrap();
    let sources = [OverrideSource::Header(named), OverrideSource::Header(RequestHeader::Authority)];
    let hosts = OverrideHosts { sources: sources.into(), selected: None };
    let mut request = RequestHead {
        method: http::Method::GET,
        scheme: head::Scheme::Http,
        authority: "127.0.0.1:2".into(),
        path: "/".into(),
        upgrade: None,
        case: None,
        headers: http::HeaderMap::new(),
    };
    request.headers.append("x-hosts", "127.0.0.1:3".parse().unwrap());
    request.headers.append("x-hosts", "127.0.0.1:1".parse().unwrap());
    assert_eq!(picks(&scheme(), &hosts.queue(Some(&request), &info()), 3), [3, 2, 1]);
    assert_eq!(picks(&scheme(), &hosts.queue(None, &info()), 1), [1]);
}

#[test]
fn the_host_is_told_under_all_keys() {
    let mut info = info();
    path(&["x", "y"]).set_text(&mut info.metadata, "h".to_owned());
    let found = info.dynamic_metadata("n", &["x".into(), "y".into()]).unwrap();
    assert_eq!(found.kind, Some(Kind::StringValue("h".into())));
}
