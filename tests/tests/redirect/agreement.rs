//! The kernel does with every connection what `explain` says, for each mesh, way of writing rules and IP version; and what it
//! says is what is meant.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use outrigger_iptables::cli::{self, Surroundings};
use outrigger_iptables::explain::{Direction, Packet, Verdict, explain};
use outrigger_iptables::options::Options;
use outrigger_iptables::plan::plan;
use outrigger_iptables::rule::{Protocol, Tracked};

use crate::rig::{Kind, Pod, User, Version, WORKLOAD};

/// The workload's port, the same that is left alone, outbound and inbound.
const PORT: u16 = 8080;
const EXCLUDED: u16 = 9090;

const BACK_ENDS: [&str; 3] =
    ["--force-iptables-binary legacy", "--force-iptables-binary nft", "--native-nftables"];

fn options(flags: &str) -> Options {
    let arguments = std::iter::once("outrigger-iptables").chain(flags.split_whitespace()).map(str::to_owned);
    cli::parse(arguments, &HashMap::new(), &Surroundings::default()).unwrap().options
}

/// A connection, and what the plan is meant to do with it.
struct Case {
    user: Option<User>,
    source: Option<IpAddr>,
    to: SocketAddr,
    /// `None`: the meshes differ, and `explain` alone is the measure.
    meant: Option<&'static str>,
}

fn cases(version: Version, proxy: User) -> Vec<Case> {
    let out =
        |user, ip, port, meant| Case { user: Some(user), source: None, to: SocketAddr::new(ip, port), meant };
    let inbound =
        |port, meant| Case { user: None, source: None, to: SocketAddr::new(version.pod(), port), meant };
    vec![
        out(WORKLOAD, version.peer(), PORT, Some("outbound")),
        out(WORKLOAD, version.peer(), EXCLUDED, Some("peer")),
        out(WORKLOAD, version.excluded(), PORT, Some("peer")),
        out(WORKLOAD, version.loopback(), PORT, Some("workload")),
        out(WORKLOAD, version.pod(), PORT, Some("workload")),
        out(proxy, version.peer(), PORT, Some("peer")),
        out(proxy, version.excluded(), PORT, Some("peer")),
        out(proxy, version.loopback(), PORT, Some("workload")),
        // the proxy reaches its own pod through its inbound side, except in Linkerd
        out(proxy, version.pod(), PORT, None),
        Case { source: Some(version.loopback()), ..out(proxy, version.pod(), PORT, None) },
        Case { source: Some(version.inbound_source()), ..out(proxy, version.pod(), PORT, None) },
        inbound(PORT, Some("inbound")),
        inbound(EXCLUDED, Some("workload")),
    ]
}

/// Where a connection ends by what `explain` says.
fn told(options: &Options, case: &Case, version: Version) -> &'static str {
    let local = case.to.ip().is_loopback() || case.to.ip() == version.pod();
    let from = match (case.user, case.source) {
        (None, _) => version.peer(),
        (Some(_), Some(source)) => source,
        (Some(_), None) if case.to.ip().is_loopback() => version.loopback(),
        (Some(_), None) => version.pod(),
    };
    let packet = Packet {
        direction: if case.user.is_some() { Direction::Out } else { Direction::In },
        protocol: Protocol::Tcp,
        from: SocketAddr::new(from, 40_000),
        to: case.to,
        uid: case.user.map(|user| user.uid),
        gid: case.user.map(|user| user.gid),
        interface: if case.user.is_some() && local { "lo" } else { "eth0" }.into(),
        state: Tracked::New,
        mark: 0,
        connection_mark: 0,
    };
    match explain(&plan(options), &packet).verdict {
        Verdict::Redirected(port) | Verdict::Diverted(port) if port == options.inbound_port => "inbound",
        Verdict::Redirected(port) if port == options.outbound_port => "outbound",
        Verdict::Passes if local || case.user.is_none() => "workload",
        Verdict::Passes => "peer",
        other => panic!("{other:?}"),
    }
}

fn check(preset: &str, back_end: &str) {
    let shape = format!(
        "--preset {preset} --ip-families both -d {EXCLUDED} -o {EXCLUDED} -x 10.77.0.0/16,2001:db8:77::/48"
    );
    let options = options(&shape);
    let mut pod = Pod::new(&[PORT, EXCLUDED]).unwrap();
    let proxy = match &options.proxy_uids[..] {
        [outrigger_iptables::address::Owner::Number(uid)] => User::new(*uid),
        other => panic!("{other:?}"),
    };
    pod.serve("outbound", options.outbound_port, |_| Kind::Redirected(proxy, None)).unwrap();
    // how a mesh's proxy goes on to its workload, and is not captured again
    let local = preset == "osm";
    let inbound = |version: Version| match preset {
        "osm" => Kind::Local(proxy),
        "linkerd" => Kind::Redirected(proxy, None),
        _ => Kind::Redirected(proxy, Some(version.inbound_source())),
    };
    pod.serve("inbound", options.inbound_port, inbound).unwrap();
    // without rules everything goes where it goes
    let direct = pod.ask(WORKLOAD, None, SocketAddr::new(Version::V4.peer(), PORT));
    assert!(direct.starts_with("peer("), "{direct}");
    pod.iptables(&format!("{shape} {back_end}"));
    for version in Version::BOTH {
        // the rules of some meshes do not make it an address of the host; all of 127.0.0.0/8 is
        pod.pod.command("ip -6 address replace ::6/128 dev lo").unwrap();
        for case in cases(version, proxy) {
            let what = format!("{shape} {back_end}: {:?} from {:?} to {}", case.user, case.source, case.to);
            let answer = match case.user {
                Some(user) => pod.ask(user, case.source, case.to),
                None => pod.ask_from_peer(case.to),
            };
            let told = told(&options, &case, version);
            assert!(
                answer.starts_with(&format!("{told}({} of ", case.to)),
                "{what}: {told} was told, but: {answer}"
            );
            assert!(case.meant.is_none_or(|meant| meant == told), "{what}: {told}");
            // the proxy goes on to the original destination and is not captured again
            let last = if told == "outbound" { "peer" } else { "workload" };
            let captured = ["outbound", "inbound"].contains(&told);
            let hops = answer.matches('(').count();
            assert_eq!(hops, if captured { 2 } else { 1 }, "{what}: {answer}");
            let to =
                if local && told == "inbound" { SocketAddr::new(version.loopback(), PORT) } else { case.to };
            assert!(!captured || answer.contains(&format!(") {last}({to} of ")), "{what}: {answer}");
        }
    }
}

#[test]
fn istio() {
    BACK_ENDS.iter().for_each(|back_end| check("istio", back_end));
}

#[test]
fn outrigger() {
    BACK_ENDS.iter().for_each(|back_end| check("outrigger", back_end));
}

#[test]
fn osm() {
    BACK_ENDS.iter().for_each(|back_end| check("osm", back_end));
}

#[test]
fn linkerd() {
    BACK_ENDS.iter().for_each(|back_end| check("linkerd", back_end));
}
