//! TPROXY: inbound connections reach the proxy with both addresses unchanged, and the workload if the proxy so wishes.

use std::net::SocketAddr;
use std::time::Duration;

use integration::netns::Netns;

use crate::rig::{Kind, Pod, User, Version, WORKLOAD, allow_files, hold};

const PORT: u16 = 8080;
const EXCLUDED: u16 = 9090;

const BACK_ENDS: [&str; 3] =
    ["--force-iptables-binary legacy", "--force-iptables-binary nft", "--native-nftables"];

fn check(preset: &str, back_end: &str) {
    let what = format!("{preset} {back_end}");
    let mut pod = Pod::new(&[PORT, EXCLUDED]).unwrap();
    let proxy = User::new(1337);
    pod.serve("outbound", 15001, |_| Kind::Redirected(proxy, None)).unwrap();
    pod.serve("inbound", 15006, |_| Kind::Transparent(proxy, 1337)).unwrap();
    pod.iptables(&format!("--preset {preset} -m TPROXY -d {EXCLUDED} --ip-families both {back_end}"));
    for version in Version::BOTH {
        let (own, peer) = (SocketAddr::new(version.pod(), PORT), version.peer());
        let text = pod.ask_from_peer(own);
        // the proxy and the workload both see the client's address, and the one that it asked for
        let start =
            format!("inbound({own} of {}", SocketAddr::new(peer, 0).to_string().trim_end_matches('0'));
        assert!(text.starts_with(&start), "{what}: {text}");
        let end =
            format!(") workload({own} of {}", SocketAddr::new(peer, 0).to_string().trim_end_matches('0'));
        assert!(text.contains(&end) && text.matches('(').count() == 2, "{what}: {text}");

        let text = pod.ask_from_peer(SocketAddr::new(version.pod(), EXCLUDED));
        assert!(text.starts_with("workload("), "{what}: {text}");
        // outbound is as without TPROXY
        let text = pod.ask(WORKLOAD, None, SocketAddr::new(peer, PORT));
        assert!(text.starts_with("outbound(") && text.contains(") peer("), "{what}: {text}");
        let text = pod.ask(WORKLOAD, None, own);
        assert!(text.starts_with("workload("), "{what}: {text}");
        let text = pod.ask(proxy, None, SocketAddr::new(peer, PORT));
        assert!(text.starts_with("peer("), "{what}: {text}");
        // the proxy reaches its own pod through its inbound side
        let text = pod.ask(proxy, None, own);
        assert!(text.starts_with(&format!("inbound({own} of ")), "{what}: {text}");
        assert!(text.contains(&format!(") workload({own} of ")), "{what}: {text}");
        let text = pod.ask(proxy, Some(version.loopback()), SocketAddr::new(version.loopback(), PORT));
        assert!(text.starts_with("workload("), "{what}: {text}");
    }
}

#[test]
fn the_clients_address_is_preserved() {
    for preset in ["istio", "outrigger"] {
        BACK_ENDS.iter().for_each(|back_end| check(preset, back_end));
    }
}

/// Holds connections from each of `sources` ports of the peer to two ports of the pod, and gives how many were made and seen by the
/// proxy as what they are: from that very port.
fn fan_in(peer: &Netns, sources: u16, patience: Duration) -> (usize, usize) {
    const THREADS: u16 = 8;
    let v4 = Version::V4;
    let some = |first: u16| {
        let mut held = Vec::new();
        let mut right = 0;
        for port in (first..sources).step_by(THREADS.into()) {
            for to in [8001, 8002] {
                let from = SocketAddr::new(v4.peer(), 10_000 + port);
                if let Ok((stream, seen)) = hold(from, SocketAddr::new(v4.pod(), to), patience) {
                    right += usize::from(seen == from);
                    held.push(stream);
                }
            }
        }
        (held, right)
    };
    let all = || {
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..THREADS).map(|first| scope.spawn(move || some(first))).collect();
            // every connection is held until the last one is made
            threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
        })
    };
    let all = peer.within(all).unwrap();
    (all.iter().map(|(held, _)| held.len()).sum(), all.iter().map(|(_, right)| right).sum())
}

/// Two connections from one address and port to two ports are one to connection tracking once both are redirected to
/// one port: the second is not made, or its client is not who it is. With TPROXY they stay two.
#[test]
fn thousands_of_connections_do_not_collide() {
    allow_files(8192).unwrap();
    let mut pod = Pod::new(&[]).unwrap();
    pod.serve("inbound", 15006, |_| Kind::Held).unwrap();
    pod.iptables("--preset istio");
    let (made, right) = fan_in(&pod.peer, 8, Duration::from_millis(1500));
    assert_eq!(right, 8, "{made} connections were made through REDIRECT");
    drop(pod);

    let mut pod = Pod::new(&[]).unwrap();
    pod.serve("inbound", 15006, |_| Kind::Held).unwrap();
    pod.iptables("--preset istio -m TPROXY");
    assert_eq!(fan_in(&pod.peer, 1500, Duration::from_secs(10)), (3000, 3000));
}
