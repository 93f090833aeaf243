//! The kernel does with every connection what `explain` says, for each mesh, way of writing rules and IP version; and what it
//! says is what is meant.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use outrigger_iptables::address::Owner;
use outrigger_iptables::cli::{self, Surroundings};
use outrigger_iptables::explain::{Direction, Packet, Verdict, explain};
use outrigger_iptables::options::{Interception, Mesh, Options};
use outrigger_iptables::plan::plan;
use outrigger_iptables::rule::{Protocol, Tracked};

use crate::rig::{Kind, Pod, User, Version, WORKLOAD};

/// The workload's port, the same that is left alone, outbound and inbound.
const PORT: u16 = 8080;
const EXCLUDED: u16 = 9090;

const BACK_ENDS: [&str; 3] =
    ["--force-iptables-binary legacy", "--force-iptables-binary nft", "--native-nftables"];

/// A way to call the program.
#[derive(Clone, Copy, Debug, Default)]
struct Shape {
    flags: &'static str,
    /// A variable, if one is set.
    variable: Option<(&'static str, &'static str)>,
    /// Whether the flags are a preset's with a port and a range excluded, whose meaning is known without `explain`.
    plain: bool,
}

impl Shape {
    fn options(&self) -> Options {
        let arguments = std::iter::once("outrigger-iptables").chain(self.flags.split_whitespace());
        let environment: HashMap<String, String> =
            self.variable.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let arguments = arguments.map(str::to_owned).chain(["--ip-families=both".to_owned()]);
        cli::parse(arguments, &environment, &Surroundings::default()).unwrap().options
    }
}

/// A connection, and what the plan is meant to do with it.
struct Case {
    user: Option<User>,
    source: Option<IpAddr>,
    to: SocketAddr,
    /// `None`: the meshes differ, and `explain` alone is the measure.
    meant: Option<&'static str>,
}

fn cases(version: Version, proxies: &[User]) -> Vec<Case> {
    let out =
        |user, ip, port, meant| Case { user: Some(user), source: None, to: SocketAddr::new(ip, port), meant };
    let inbound =
        |port, meant| Case { user: None, source: None, to: SocketAddr::new(version.pod(), port), meant };
    let mut cases = vec![
        out(WORKLOAD, version.peer(), PORT, Some("outbound")),
        out(WORKLOAD, version.peer(), EXCLUDED, Some("peer")),
        out(WORKLOAD, version.excluded(), PORT, Some("peer")),
        out(WORKLOAD, version.loopback(), PORT, Some("workload")),
        out(WORKLOAD, version.pod(), PORT, Some("workload")),
        // of another group
        out(User { gid: 202, ..WORKLOAD }, version.peer(), PORT, None),
        inbound(PORT, Some("inbound")),
        inbound(EXCLUDED, Some("workload")),
    ];
    if version == Version::V4 {
        cases.push(out(WORKLOAD, "127.1.2.3".parse().unwrap(), PORT, Some("workload")));
    }
    for proxy in proxies.iter().copied() {
        cases.extend([
            out(proxy, version.peer(), PORT, Some("peer")),
            out(proxy, version.excluded(), PORT, Some("peer")),
            out(proxy, version.loopback(), PORT, Some("workload")),
            // the proxy reaches its own pod through its inbound side, except in Linkerd
            out(proxy, version.pod(), PORT, None),
            Case { source: Some(version.loopback()), ..out(proxy, version.pod(), PORT, None) },
            Case { source: Some(version.inbound_source()), ..out(proxy, version.pod(), PORT, None) },
        ]);
    }
    cases
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

/// How a mesh's proxy goes on to its workload.
enum Onward {
    /// To the same port of the loopback.
    Loopback,
    /// To the original destination, from this address.
    From(Option<IpAddr>),
}

fn onward(options: &Options, version: Version) -> Onward {
    match options.mesh {
        Mesh::Osm => Onward::Loopback,
        _ if options.interception == Interception::TProxy => Onward::Loopback,
        Mesh::Linkerd => Onward::From(None),
        Mesh::Istio | Mesh::Outrigger => Onward::From(Some(version.inbound_source())),
    }
}

/// The servers that a connection meets one after the other, each with the destination it is told: the proxy's own connections go
/// on by what `explain` says of them.
fn way(options: &Options, mut case: Case, version: Version, proxy: User) -> Vec<String> {
    let mut way = Vec::new();
    // outbound, inbound, workload: more would be a circle
    while way.len() < 4 {
        let told = told(options, &case, version);
        way.push(format!("{told}({} of ", case.to));
        case = match (told, onward(options, version)) {
            ("outbound", _) => Case { user: Some(proxy), source: None, ..case },
            ("inbound", Onward::Loopback) => {
                let to = SocketAddr::new(version.loopback(), case.to.port());
                Case { user: Some(proxy), source: None, to, ..case }
            }
            ("inbound", Onward::From(source)) => Case { user: Some(proxy), source, ..case },
            _ => return way,
        };
    }
    panic!("a circle: {way:?}");
}

fn check(shape: Shape, back_end: &str) {
    let options = shape.options();
    let mut pod = Pod::new(&[PORT, EXCLUDED]).unwrap();
    let number = |owner: &Owner| match owner {
        Owner::Number(uid) => User::new(*uid),
        Owner::Name(name) => panic!("{name}"),
    };
    let proxies: Vec<User> = options.proxy_uids.iter().map(number).collect();
    let proxy = proxies[0];
    pod.serve("outbound", options.outbound_port, |_| Kind::Redirected(proxy, None)).unwrap();
    let inbound = |version| match onward(&options, version) {
        Onward::Loopback => Kind::Local(proxy),
        Onward::From(source) => Kind::Redirected(proxy, source),
    };
    pod.serve("inbound", options.inbound_port, inbound).unwrap();
    // without rules everything goes where it goes
    let direct = pod.ask(WORKLOAD, None, SocketAddr::new(Version::V4.peer(), PORT));
    assert!(direct.starts_with("peer("), "{direct}");
    let variables: Vec<(&str, &str)> = shape.variable.into_iter().collect();
    let (code, text) =
        pod.run_iptables(&format!("{} --ip-families=both {back_end}", shape.flags), &variables);
    assert_eq!(code, Some(0), "{shape:?} {back_end}: {text}");
    for version in Version::BOTH {
        // the rules of some meshes do not make it an address of the host; all of 127.0.0.0/8 is
        pod.pod.command("ip -6 address replace ::6/128 dev lo nodad").unwrap();
        for case in cases(version, &proxies) {
            let what = format!("{shape:?} {back_end}: {:?} from {:?} to {}", case.user, case.source, case.to);
            let answer = match case.user {
                Some(user) => pod.ask(user, case.source, case.to),
                None => pod.ask_from_peer(case.to),
            };
            let told = told(&options, &case, version);
            assert!(!shape.plain || case.meant.is_none_or(|meant| meant == told), "{what}: {told}");
            let found: Vec<&str> = answer.split_inclusive(") ").collect();
            let way = way(&options, case, version, proxy);
            let pairs = way.iter().zip(&found);
            let as_told =
                found.len() == way.len() && pairs.into_iter().all(|(way, found)| found.starts_with(way));
            assert!(as_told, "{what}: {way:?} was told, but: {answer}");
        }
    }
}

macro_rules! presets {
    ($($name:ident $preset:literal,)+) => {
        $(
            #[test]
            fn $name() {
                let flags = concat!("--preset ", $preset, " -d 9090 -o 9090 -x 10.77.0.0/16,2001:db8:77::/48");
                let shape = Shape { flags, variable: None, plain: true };
                BACK_ENDS.iter().for_each(|back_end| check(shape, back_end));
            }
        )+
    };
}

presets! {
    istio "istio",
    outrigger "outrigger",
    osm "osm",
    linkerd "linkerd",
}

/// Calls of every kind, each with one way of writing rules.
const SHAPES: &[(&str, Option<(&str, &str)>)] = &[
    ("-b * -i *", None),
    ("-b 8080", None),
    ("-b * -d 8080 -i * -c eth0", None),
    ("-b * -i * -k eth0", None),
    ("-b * -i 10.77.0.0/16,2001:db8:77::/48 -k eth0", None),
    ("-i 10.77.0.0/16,2001:db8:77::/48,127.1.2.3/32", None),
    ("-q 8080", None),
    ("-m TPROXY -b * -i * -d 9090", None),
    ("-m TPROXY -b 9090 -c eth1 --drop-invalid --iptables-trace-logging", None),
    ("-b * -i *", Some(("ISTIO_OUTBOUND_OWNER_GROUPS", "202,203"))),
    ("-b * -i *", Some(("ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE", "202"))),
    ("-b * -i *", Some(("ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR", "127.0.0.1/8"))),
    ("-b * -i * --redirect-dns --capture-all-dns", None),
    ("--preset outrigger -m TPROXY", None),
    ("--preset outrigger -u 1337,1500 -g 1337,1500", None),
    ("--preset outrigger -c eth0", None),
    ("--preset outrigger -k eth+", None),
    ("--preset osm -b 8080 -q 9090 -i=", None),
    ("--preset osm -c eth0", None),
    ("--preset linkerd -i 10.77.0.0/16 --exclude-inbound-sources 10.9.0.0/24", None),
    ("--preset linkerd -c eth0 -b 9090", Some(("ISTIO_OUTBOUND_OWNER_GROUPS", "202"))),
];

/// A part of the shapes, so that parts run beside each other.
fn shapes(part: usize) {
    for (number, (flags, variable)) in SHAPES.iter().enumerate().filter(|(number, _)| number % 3 == part) {
        let shape = Shape { flags, variable: *variable, plain: false };
        check(shape, BACK_ENDS[(number / 3) % BACK_ENDS.len()]);
    }
}

#[test]
fn shapes_of_calls_1() {
    shapes(0);
}

#[test]
fn shapes_of_calls_2() {
    shapes(1);
}

#[test]
fn shapes_of_calls_3() {
    shapes(2);
}
