//! Rules that are there already: kept, refused, replaced without a gap, taken away; and how the program ends.

use std::net::SocketAddr;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::rig::{Kind, Pod, User, Version, WORKLOAD};

const PORT: u16 = 8080;
const LEGACY: &str = "--force-iptables-binary legacy";
const NFT: &str = "--force-iptables-binary nft";

fn to_peer() -> SocketAddr {
    SocketAddr::new(Version::V4.peer(), PORT)
}

/// What `iptables-save` prints of a variant, without comments and counters of chains.
fn saved(pod: &Pod, variant: &str) -> String {
    let text = pod.pod.command(&format!("iptables-{variant}-save; ip6tables-{variant}-save")).unwrap();
    text.lines().filter(|line| line.starts_with("-A")).map(|line| format!("{line}\n")).collect()
}

#[test]
fn a_second_run_changes_nothing() {
    for (variant, flag) in [("legacy", LEGACY), ("nft", NFT)] {
        for shape in ["--preset istio", "--preset outrigger -m TPROXY", "--preset osm", "--preset linkerd"] {
            let pod = Pod::new(&[PORT]).unwrap();
            let run = |more: &str| pod.iptables(&format!("{shape} --ip-families both {flag} {more}"));
            assert!(run("").contains("in place"));
            // a rule of ours that has counted a packet counts on
            pod.ask(WORKLOAD, None, to_peer());
            let counters = || {
                pod.pod
                    .command(&format!("iptables-{variant}-save -c -t nat | grep '^.[1-9].*REDIRECT'"))
                    .unwrap()
            };
            let before = counters();
            assert!(run("").contains("as they should be"), "{shape} {flag}");
            assert!(run("--reconcile").contains("as they should be"), "{shape} {flag}");
            assert_eq!(before, counters());
            assert!(run("--force-apply").contains("in place"), "{shape} {flag}");
            assert!(run("").contains("as they should be"), "{shape} {flag}");
        }
    }
}

#[test]
fn a_second_run_changes_nothing_of_nftables() {
    for shape in [
        "--preset istio",
        "--preset istio -m TPROXY -c eth1,eth2 -x 10.1.2.3/8 --redirect-dns --capture-all-dns --drop-invalid -o 1:5,9",
        "--preset istio -k eth1 -i 10.0.0.0/8,2001:db8::1/32 -q 80,443 --iptables-trace-logging",
        "--preset outrigger -m TPROXY",
        "--preset osm -d 1,2:3 -o 7 --pod-ip 10.9.0.2",
        "--preset linkerd -c eth+",
    ] {
        for families in ["v4", "both"] {
            let pod = Pod::new(&[]).unwrap();
            let run = |more: &str| {
                pod.iptables(&format!("{shape} --ip-families {families} --native-nftables {more}"))
            };
            assert!(run("").contains("in place"), "{shape}");
            let text = run("");
            let listing = pod.pod.command("nft list ruleset").unwrap();
            assert!(text.contains("as they should be"), "{shape} {families}: {text}\n{listing}");
            assert!(run("--force-apply").contains("in place"), "{shape}");
            pod.pod
                .command("nft add rule inet $(nft list tables | head -n 1 | cut -d ' ' -f 3) output accept")
                .unwrap();
            assert!(run("").contains("in place"), "{shape}");
        }
    }
}

#[test]
fn another_configuration_is_refused_or_replaced() {
    for (variant, flag) in [("legacy", LEGACY), ("nft", NFT)] {
        let pod = Pod::new(&[]).unwrap();
        pod.iptables(&format!("--preset istio -m TPROXY --redirect-dns --capture-all-dns {flag}"));
        let (before, other) = (saved(&pod, variant), format!("--preset istio -d 99 {flag}"));
        let (code, text) = pod.try_iptables(&other);
        assert_eq!(code, Some(1), "{text}");
        assert!(text.contains("--reconcile"), "{text}");
        assert_eq!(before, saved(&pod, variant));
        pod.iptables(&format!("{other} --reconcile"));
        let fresh = Pod::new(&[]).unwrap();
        fresh.iptables(&other);
        assert_eq!(saved(&pod, variant), saved(&fresh, variant));
    }
}

#[test]
fn cleaning_up_leaves_what_is_others() {
    for (variant, flag) in [("legacy", LEGACY), ("nft", NFT)] {
        for preset in ["istio", "outrigger", "osm", "linkerd"] {
            let pod = Pod::new(&[PORT]).unwrap();
            let tool = format!("iptables-{variant}");
            pod.pod
                .command(&format!(
                    "{tool} -t nat -N OTHERS; {tool} -t nat -A OUTPUT -p tcp --dport 7 -j OTHERS"
                ))
                .unwrap();
            pod.pod
                .command(&format!(
                    "{tool} -A OUTPUT -p udp --dport 7 -m comment --comment 'not ours' -j DROP"
                ))
                .unwrap();
            let before = saved(&pod, variant);
            pod.iptables(&format!("--preset {preset} --ip-families both {flag}"));
            assert_ne!(before, saved(&pod, variant));
            pod.iptables(&format!("--preset {preset} --ip-families both {flag} --cleanup-only"));
            assert_eq!(before, saved(&pod, variant), "{preset} {flag}");
            // once more, with nothing there
            pod.iptables(&format!("--preset {preset} --ip-families both {flag} --cleanup-only"));
            assert!(pod.ask(WORKLOAD, None, to_peer()).starts_with("peer("));
        }
    }
    // our own rules go whatever flags made them, the routes of TPROXY and those of nftables too
    let pod = Pod::new(&[]).unwrap();
    // (Routes of link-local addresses come when the kernel has found that nobody else has those.)
    let routing = || {
        let routes = "ip route show table all | grep -v 'local fe80::'";
        pod.pod.command(&format!("ip rule; ip -6 rule; {routes}; ip -6 address show dev lo")).unwrap()
    };
    let before = routing();
    pod.iptables("--preset outrigger -m TPROXY -c eth7 --drop-invalid --ip-families both");
    assert_ne!(before, routing());
    pod.iptables("--preset outrigger --ip-families both --cleanup-only");
    assert_eq!(saved(&pod, "nft"), "");
    assert_eq!(before, routing());
    pod.iptables("--preset istio --native-nftables -m TPROXY --ip-families both");
    pod.iptables("--preset istio --native-nftables --ip-families both --cleanup-only");
    assert!(!pod.pod.command("nft list ruleset").unwrap().contains("istio"));
}

#[test]
fn what_cannot_be_cleaned_up_is_told() {
    use std::os::unix::fs::PermissionsExt;
    let pod = Pod::new(&[]).unwrap();
    pod.iptables(&format!("--preset istio --ip-families both {NFT}"));
    let dir = tempfile::tempdir().unwrap();
    let broken = dir.path().join("ip6tables-nft-save");
    std::fs::write(&broken, "#!/bin/sh\necho it is broken >&2\nexit 1\n").unwrap();
    std::fs::set_permissions(&broken, std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", dir.path().display(), std::env::var("PATH").unwrap_or_default());
    let (code, text) =
        pod.run_iptables(&format!("--preset istio {NFT} --cleanup-only"), &[("PATH", path.as_str())]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("it is broken"), "{text}");
    let left = |tool: &str| pod.pod.command(&format!("{tool}-save")).unwrap().contains("ISTIO_");
    assert!(!left("iptables-nft"), "IPv4 is cleaned up all the same");
    assert!(left("ip6tables-nft"));
    pod.iptables(&format!("--preset istio {NFT} --cleanup-only"));
    assert!(!left("ip6tables-nft"));
}

/// Connections are made all the time, in and out, while two configurations take turns: none goes past the proxy, none fails.
fn changes_without_a_gap(one: &str, other: &str, rounds: usize) {
    let proxy = User::new(1337);
    let mut pod = Pod::new(&[PORT]).unwrap();
    pod.serve("outbound", 15001, |_| Kind::Redirected(proxy, None)).unwrap();
    pod.serve("inbound", 15006, |_| Kind::Local(proxy)).unwrap();
    pod.iptables(one);
    let done = AtomicBool::new(false);
    let (pod, done) = (&pod, &done);
    let all = |ask: &dyn Fn() -> String| {
        let mut answers = Vec::new();
        while !done.load(Ordering::Relaxed) {
            answers.push(ask());
        }
        answers
    };
    let (out, inward) = std::thread::scope(|scope| {
        let out = scope.spawn(move || all(&|| pod.ask(WORKLOAD, None, to_peer())));
        let to_pod = SocketAddr::new(Version::V4.pod(), PORT);
        let inward = scope.spawn(move || all(&|| pod.ask_from_peer(to_pod)));
        for round in 0..rounds {
            pod.iptables(if round % 2 == 0 { other } else { one });
        }
        done.store(true, Ordering::Relaxed);
        (out.join().unwrap(), inward.join().unwrap())
    });
    for (answers, first, last) in [(out, "outbound(", ") peer("), (inward, "inbound(", ") workload(")] {
        let wrong = |answer: &&String| !answer.starts_with(first) || !answer.contains(last);
        let wrong: Vec<&String> = answers.iter().filter(wrong).collect();
        assert!(wrong.is_empty(), "{one}, {other}: {} of {}: {:?}", wrong.len(), answers.len(), wrong[0]);
        assert!(!answers.is_empty());
    }
}

#[test]
fn nothing_escapes_while_rules_change() {
    for back_end in [LEGACY, NFT, "--native-nftables"] {
        let one = format!("--preset istio --reconcile {back_end}");
        changes_without_a_gap(&one, &format!("{one} -o 7 -d 99"), 8);
    }
}

#[test]
fn nothing_escapes_while_several_tables_change() {
    for back_end in [LEGACY, NFT, "--native-nftables"] {
        let one = format!("--preset istio --reconcile --ip-families both {back_end}");
        changes_without_a_gap(&one, &format!("{one} -m TPROXY -o 7"), 4);
    }
}

#[test]
fn a_guard_that_was_left_behind_is_taken_away() {
    for (variant, flag, preset) in [("legacy", LEGACY, "istio"), ("nft", NFT, "outrigger")] {
        let mut pod = Pod::new(&[PORT]).unwrap();
        pod.serve("outbound", 15001, |_| Kind::Redirected(User::new(1337), None)).unwrap();
        pod.iptables(&format!("--preset {preset} {flag}"));
        let guard = "*filter\n:SIDECAR_GUARD - [0:0]\n-A SIDECAR_GUARD -p tcp -j DROP\n-A SIDECAR_GUARD -p udp -j DROP\n\
                     -I INPUT -j SIDECAR_GUARD\n-I FORWARD -j SIDECAR_GUARD\n-I OUTPUT -j SIDECAR_GUARD\nCOMMIT\n";
        let leave =
            || pod.pod.command(&format!("iptables-{variant}-restore --noflush <<'END'\n{guard}END")).unwrap();
        leave();
        pod.iptables(&format!("--preset {preset} {flag}"));
        assert!(!saved(&pod, variant).contains("GUARD"));
        assert!(pod.ask(WORKLOAD, None, to_peer()).starts_with("outbound("));
        leave();
        pod.iptables(&format!("--preset {preset} --cleanup-only {flag}"));
        assert_eq!(saved(&pod, variant), "");
    }
}

#[test]
fn validation_ends_with_126_when_nothing_is_captured() {
    let mut pod = Pod::new(&[]).unwrap();
    let (code, text) =
        pod.try_iptables("--preset istio --run-validation --skip-rule-apply --probe-timeout 300ms");
    assert_eq!(code, Some(126), "{text}");
    for preset in ["istio", "osm", "linkerd", "outrigger"] {
        for families in ["v4", "both"] {
            pod = Pod::new(&[]).unwrap();
            pod.iptables(&format!("--run-validation --preset {preset} --ip-families {families}"));
        }
    }
    let (code, text) = pod.try_iptables("--preset istio -p 99999");
    assert_eq!((code, text.contains("--envoy-port")), (Some(1), true), "{text}");
}

#[test]
fn the_variant_with_rules_is_used() {
    let pod = Pod::new(&[]).unwrap();
    pod.iptables("--preset istio");
    assert_eq!((saved(&pod, "legacy").as_str(), saved(&pod, "nft").is_empty()), ("", false));
    let pod = Pod::new(&[]).unwrap();
    pod.pod.command("iptables-legacy -A OUTPUT -p tcp --dport 7 -j ACCEPT").unwrap();
    pod.iptables("--preset istio");
    assert!(saved(&pod, "legacy").contains("ISTIO_OUTPUT"));
    assert_eq!(saved(&pod, "nft"), "");
    // where ours are they stay, whatever else comes
    let pod = Pod::new(&[]).unwrap();
    pod.iptables("--preset istio");
    pod.pod.command("iptables-legacy -A OUTPUT -p tcp --dport 7 -j ACCEPT").unwrap();
    assert!(pod.iptables("--preset istio").contains("as they should be"));
    pod.iptables("--preset istio --cleanup-only");
    assert_eq!(saved(&pod, "nft"), "");
}

#[test]
fn another_namespace_is_set_up_from_outside() {
    let pod = Pod::new(&[]).unwrap();
    let mut command = Command::new(integration::process::outrigger_iptables().unwrap());
    let path = pod.pod.path();
    // the addresses that decide about IPv6 are those of the namespace, too
    let flags =
        ["--preset", "istio", "--dual-stack", "--cni-mode", "--network-namespace", path.to_str().unwrap()];
    let output = pod.peer.run(command.args(flags)).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(saved(&pod, "nft").matches("-A OUTPUT -j ISTIO_OUTPUT").count(), 2);
    let peer = pod.peer.command("iptables-nft-save").unwrap();
    assert!(!peer.contains("ISTIO"), "{peer}");
}

#[test]
fn without_ipv6_there_is_only_ipv4() {
    let mut pod = Pod::new(&[]).unwrap();
    pod.serve("outbound", 15001, |_| Kind::Redirected(User::new(1337), None)).unwrap();
    pod.pod.command("echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6").unwrap();
    pod.iptables("--preset outrigger --dual-stack");
    pod.iptables("--preset outrigger --dual-stack");
    assert!(pod.ask(WORKLOAD, None, to_peer()).starts_with("outbound("));
    pod.iptables("--preset outrigger --cleanup-only");
    assert_eq!(saved(&pod, "nft"), "");
}

#[test]
fn with_ipv6_alone_it_is_captured() {
    let mut pod = Pod::new(&[PORT]).unwrap();
    pod.serve("outbound", 15001, |_| Kind::Redirected(User::new(1337), None)).unwrap();
    pod.pod
        .command("ip address flush dev eth0 scope global; ip -6 address add 2001:db8:9::2/64 dev eth0 nodad")
        .unwrap();
    pod.pod.command("ip -6 route replace default via 2001:db8:9::1").unwrap();
    pod.iptables("--preset istio --run-validation");
    let text = pod.ask(WORKLOAD, None, SocketAddr::new(Version::V6.peer(), PORT));
    assert!(text.starts_with("outbound(") && text.contains(") peer("), "{text}");
}

#[test]
fn the_pod_address_of_osm() {
    for back_end in [LEGACY, NFT, "--native-nftables"] {
        let mut pod = Pod::new(&[]).unwrap();
        let proxy = User::new(1500);
        pod.serve("inbound", 15003, |_| Kind::Local(proxy)).unwrap();
        // a workload that the loopback does not reach
        let own = SocketAddr::new(Version::V4.pod(), PORT);
        pod.workload(own).unwrap();
        pod.iptables(&format!("--preset osm --pod-ip {} {back_end}", own.ip()));
        let text = pod.ask_from_peer(own);
        assert!(
            text.starts_with("inbound(") && text.contains(&format!(") workload({own} of ")),
            "{back_end}: {text}"
        );
    }
}

/// An iptables that gives rules back in other words: they are asked for one by one.
#[test]
fn an_iptables_that_talks_differently() {
    let dir = tempfile::tempdir().unwrap();
    let save = dir.path().join("iptables-nft-save");
    let script = "#!/bin/sh\nPATH=/usr/sbin:/sbin:$PATH\n/usr/sbin/iptables-nft-save \"$@\" | sed 's/ -j RETURN$/ -j RETURN --news/'\n";
    std::fs::write(&save, script).unwrap();
    std::fs::set_permissions(&save, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", dir.path().display(), std::env::var("PATH").unwrap_or_default());
    let pod = Pod::new(&[]).unwrap();
    let run = |flags: &str| pod.run_iptables(flags, &[("PATH", &path)]);
    let (code, text) = run("--preset istio");
    assert_eq!((code, text.contains("in place")), (Some(0), true), "{text}");
    let (code, text) = run("--preset istio");
    assert_eq!((code, text.contains("as they should be")), (Some(0), true), "{text}");
    let (code, text) = run("--preset istio -d 7,8,9");
    assert_eq!((code, text.contains("--reconcile")), (Some(1), true), "{text}");
    let (code, text) = run("--preset istio --cleanup-only");
    assert_eq!((code, saved(&pod, "nft").as_str()), (Some(0), ""), "{text}");
}
