//! The ports, users, marks and exclusions that each mesh uses, as options to start from.
//!
//! Without a preset the options are those of `istio-iptables` called without flags, which captures nothing inbound and
//! nothing outbound. A preset is what the mesh's injector asks for; every flag given beside it replaces its part.

use crate::address::{Cidr, Owner, Ports};
use crate::options::{Families, Groups, Inbound, Interception, Mesh, Options, Ranges};

/// The names of the presets.
pub const NAMES: [&str; 4] = ["istio", "osm", "linkerd", "outrigger"];

/// The options of a preset.
pub fn named(name: &str) -> Option<Options> {
    match name {
        "istio" => Some(istio()),
        "osm" => Some(osm()),
        "linkerd" => Some(linkerd()),
        "outrigger" => Some(outrigger()),
        _ => None,
    }
}

/// The options of `istio-iptables` without flags.
pub fn none() -> Options {
    Options {
        mesh: Mesh::Istio,
        families: Families::V4,
        outbound_port: 15001,
        inbound_port: 15006,
        tunnel_port: 15008,
        proxy_uids: vec![Owner::Number(1337)],
        proxy_gids: vec![Owner::Number(1337)],
        interception: Interception::Redirect,
        inbound: Inbound::Only(Vec::new()),
        inbound_sources_exclude: Vec::new(),
        interfaces_exclude: Vec::new(),
        virtual_interfaces: Vec::new(),
        outbound: Ranges::Only(Vec::new()),
        outbound_exclude: Vec::new(),
        outbound_ports: Vec::new(),
        outbound_ports_exclude: Vec::new(),
        groups: Groups::AllBut(Vec::new()),
        dns: None,
        drop_invalid: false,
        tproxy_mark: 1337,
        tproxy_table: 133,
        loopback: Cidr::v4(127, 0, 0, 1),
        pod_ip: None,
        trace: false,
    }
}

/// What Istio's injection template asks for: everything but metrics (15090), health (15021) and the merged metrics and probes
/// of the agent (15020).
fn istio() -> Options {
    Options { inbound: all_but(&[15090, 15021, 15020]), outbound: Ranges::All, ..none() }
}

/// OSM: its metrics and probe ports are exempt by its rules themselves; its own user is known, a group is not.
fn osm() -> Options {
    Options {
        mesh: Mesh::Osm,
        inbound_port: 15003,
        proxy_uids: vec![Owner::Number(1500)],
        proxy_gids: Vec::new(),
        inbound: all_but(&[]),
        outbound: Ranges::All,
        ..none()
    }
}

/// Linkerd: control (4190) and admin (4191) are reached directly, as are the ports that it skips by default both ways.
fn linkerd() -> Options {
    let skipped = Ports { first: 4567, last: 4568 };
    let mut inbound: Vec<Ports> = [4190, 4191].map(Ports::from).to_vec();
    inbound.push(skipped);
    Options {
        mesh: Mesh::Linkerd,
        outbound_port: 4140,
        inbound_port: 4143,
        proxy_uids: vec![Owner::Number(2102)],
        proxy_gids: Vec::new(),
        inbound: Inbound::AllBut(inbound),
        outbound: Ranges::All,
        outbound_ports_exclude: vec![skipped],
        ..none()
    }
}

/// Our own: Istio's ports, so that configurations made for it fit, in chains that can be taken away without knowing how
/// they were asked for.
fn outrigger() -> Options {
    Options { mesh: Mesh::Outrigger, ..istio() }
}

fn all_but(ports: &[u16]) -> Inbound {
    Inbound::AllBut(ports.iter().copied().map(Ports::from).collect())
}
