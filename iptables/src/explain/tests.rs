use std::net::{IpAddr, SocketAddr};

use proptest::prelude::*;

use super::{Direction, Packet, Verdict, explain, in_words, named, owned};
use crate::address::{Owner, Ports};
use crate::options::{DNS_PROXY_PORT, Dns, Families, Groups, Inbound, Interception, Mesh, Options, Ranges};
use crate::plan::plan;
use crate::rule::{Protocol, Tracked};
use crate::testing::{options, packets};
use crate::{preset, restore};

fn any(ports: &[Ports], port: u16) -> bool {
    ports.iter().any(|ports| ports.contains(port))
}

/// What our own preset does, told from the options alone: who may be captured, and where to.
fn told(options: &Options, packet: &Packet) -> Verdict {
    let tcp = packet.protocol == Protocol::Tcp;
    let port = packet.to.port();
    let excluded = options.interfaces_exclude.iter().any(|name| named(name, &packet.interface));
    if excluded {
        return Verdict::Passes;
    }
    if packet.direction == Direction::In {
        return told_inbound(options, packet);
    }
    let lo = packet.interface == "lo";
    let source: IpAddr = if packet.to.is_ipv4() { [127, 0, 0, 6].into() } else { "::6".parse().unwrap() };
    let loopback = match packet.to.ip() {
        IpAddr::V4(address) => options.loopback.contains(address.into()),
        IpAddr::V6(address) => address.is_loopback(),
    };
    let member = |owners: &[Owner], id| owners.iter().any(|owner| owned(owner, id));
    let proxy = member(&options.proxy_uids, packet.uid) || member(&options.proxy_gids, packet.gid);
    let dns = options.dns.is_some();
    if any(&options.outbound_ports_exclude, port) || (lo && packet.from.ip() == source) {
        return Verdict::Passes;
    }
    if proxy {
        let again = lo && tcp && !loopback && port != options.tunnel_port && !(dns && port == 53);
        return if again { Verdict::Redirected(options.inbound_port) } else { Verdict::Passes };
    }
    let captures_loopback = matches!(&options.outbound, Ranges::Only(ranges) if ranges.iter().any(|range| range.address().is_loopback()));
    if lo && !captures_loopback && !(dns && (!tcp || port == 53)) {
        return Verdict::Passes;
    }
    let left_alone = match &options.groups {
        Groups::AllBut(groups) => member(groups, packet.gid),
        Groups::Only(groups) => !member(groups, packet.gid),
    };
    if left_alone {
        return Verdict::Passes;
    }
    let server = match &options.dns {
        None => false,
        Some(Dns::All) => true,
        Some(Dns::Servers(servers)) => servers.contains(&packet.to.ip()),
    };
    if server && port == 53 {
        return Verdict::Redirected(DNS_PROXY_PORT);
    }
    if loopback || options.outbound_exclude.iter().any(|range| range.contains(packet.to.ip())) {
        return Verdict::Passes;
    }
    let included = match &options.outbound {
        Ranges::All => true,
        Ranges::Only(ranges) => ranges.iter().any(|range| range.contains(packet.to.ip())),
    };
    if tcp && (included || any(&options.outbound_ports, port)) {
        Verdict::Redirected(options.outbound_port)
    } else {
        Verdict::Passes
    }
}

fn told_inbound(options: &Options, packet: &Packet) -> Verdict {
    let tcp = packet.protocol == Protocol::Tcp;
    let port = packet.to.port();
    let wanted = match &options.inbound {
        Inbound::AllBut(ports) => !any(ports, port),
        Inbound::Only(ports) => any(ports, port),
    };
    let loopback = options.loopback.contains(packet.to.ip()) || packet.to.ip().to_string() == "::1";
    let tproxy = options.interception == Interception::TProxy;
    if tcp && tproxy && wanted && port != options.tunnel_port && packet.interface != "lo" && !loopback {
        return Verdict::Diverted(options.inbound_port);
    }
    // a virtual machine's traffic is outbound; what is not to be captured of it is left alone
    if options.virtual_interfaces.iter().any(|name| named(name, &packet.interface)) {
        let included = match &options.outbound {
            Ranges::All => true,
            Ranges::Only(ranges) => ranges.iter().any(|range| range.contains(packet.to.ip())),
        };
        return if tcp && included { Verdict::Redirected(options.outbound_port) } else { Verdict::Passes };
    }
    if tcp && !tproxy && wanted && port != options.tunnel_port {
        return Verdict::Redirected(options.inbound_port);
    }
    Verdict::Passes
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn the_rules_do_what_the_options_say(options in options(), packet in packets()) {
        let mut ours = Options { mesh: Mesh::Outrigger, families: Families::Both, drop_invalid: false, ..options };
        // the interface of a virtual machine that is excluded, too, is a contradiction that the order of rules settles
        let Options { virtual_interfaces, interfaces_exclude, .. } = &mut ours;
        virtual_interfaces.retain(|name| !interfaces_exclude.contains(name));
        let plan = plan(&ours);
        let found = explain(&plan, &packet).verdict;
        prop_assert_eq!(found, told(&ours, &packet), "{:#?}\n{}", ours, restore::render(&plan, crate::address::Family::of(packet.to.ip())));
    }

    #[test]
    fn nothing_is_ever_captured_in_a_circle(options in options(), packet in packets()) {
        // the proxy's connections to elsewhere are never captured, whatever the mesh
        let single = Options {
            proxy_uids: options.proxy_uids[..1].to_vec(),
            proxy_gids: Vec::new(),
            ..options
        };
        let uid = match single.proxy_uids[0] { Owner::Number(uid) => uid, Owner::Name(_) => unreachable!() };
        let packet = Packet { direction: Direction::Out, uid: Some(uid), interface: "eth0".into(), ..packet };
        prop_assert_eq!(explain(&plan(&single), &packet).verdict, Verdict::Passes);
    }

    #[test]
    fn the_deciding_rule_is_one_that_was_met(options in options(), packet in packets()) {
        let plan = plan(&options);
        let explanation = explain(&plan, &packet);
        for step in &explanation.steps {
            prop_assert!(plan.rules(packet.family()).contains(step.rule));
        }
        let text = in_words(&packet, &explanation);
        prop_assert!(text.contains(&packet.to.to_string()));
        prop_assert_eq!(explanation.deciding().is_some(), text.contains("Decided by: "));
    }
}

fn packet(direction: Direction, from: &str, to: &str, uid: Option<u32>) -> Packet {
    Packet {
        direction,
        protocol: Protocol::Tcp,
        from: from.parse::<SocketAddr>().unwrap(),
        to: to.parse::<SocketAddr>().unwrap(),
        uid,
        gid: uid,
        interface: "eth0".into(),
        state: Tracked::New,
        mark: 0,
        connection_mark: 0,
    }
}

#[test]
fn words() {
    let plan = plan(&preset::named("istio").unwrap());
    let outbound = packet(Direction::Out, "10.0.0.5:4321", "10.0.0.9:80", Some(1000));
    let text = in_words(&outbound, &explain(&plan, &outbound));
    assert!(text.contains("captured: redirected to port 15001"), "{text}");
    assert!(text.contains("Decided by: -A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports 15001"), "{text}");
    let own = packet(Direction::Out, "10.0.0.5:4321", "10.0.0.9:80", Some(1337));
    let text = in_words(&own, &explain(&plan, &own));
    assert!(text.contains("left alone"), "{text}");
    assert!(text.contains("Decided by: -A ISTIO_OUTPUT -m owner --uid-owner 1337 -j RETURN"), "{text}");
}

#[test]
fn tproxy_marks_and_diverts() {
    let options = Options { interception: Interception::TProxy, ..preset::named("istio").unwrap() };
    let plan = plan(&options);
    let inbound = packet(Direction::In, "10.0.0.9:4321", "10.0.0.5:80", None);
    let explanation = explain(&plan, &inbound);
    assert_eq!((explanation.verdict, explanation.packet.mark), (Verdict::Diverted(15006), 1337));
    let known = Packet { state: Tracked::Established, ..inbound };
    assert_eq!(explain(&plan, &known).verdict, Verdict::ToItsSocket);
    let from_proxy = Packet {
        mark: 1337,
        interface: "lo".into(),
        ..packet(Direction::In, "10.0.0.9:1", "10.0.0.5:80", None)
    };
    assert_eq!(explain(&plan, &from_proxy).verdict, Verdict::Passes);
}
