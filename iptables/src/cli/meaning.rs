//! What the flags mean: texts become [`Options`] and a [`Request`], or are refused with the flag and the reason.

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use super::flags::Given;
use super::{Command, Refusal, Request, Validation, Work};
use crate::address::{self, Cidr, Owner, Ports};
use crate::backend::Variant;
use crate::explain::{Direction, Packet};
use crate::options::{Dns, Families, Groups, Inbound, Interception, MAX_GROUPS, Mesh, Options, Ranges};
use crate::preset;
use crate::rule::{Protocol, Tracked};

/// What the host is like, as far as the meaning of flags depends on it.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// The addresses of this host that others can reach, IPv4 before IPv6.
    pub addresses: Vec<IpAddr>,
    /// The text of `/etc/resolv.conf`, if there is one.
    pub resolv_conf: Option<String>,
    /// The text of `/etc/passwd`.
    pub passwd: String,
    /// The text of `/etc/group`.
    pub group: String,
}

impl Surroundings {
    /// The number of a name in a text like `/etc/passwd`.
    pub fn lookup(text: &str, name: &str) -> Option<u32> {
        let line = text.lines().find(|line| line.split(':').next() == Some(name))?;
        line.split(':').nth(2)?.parse().ok()
    }
}

type Result<T> = std::result::Result<T, Refusal>;

fn refuse<T>(flag: &str, reason: impl ToString) -> Result<T> {
    Err(Refusal::Value { flag: flag.to_owned(), reason: reason.to_string() })
}

/// The items of a list, empty places left out.
fn items(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').filter(|item| !item.is_empty())
}

struct Reader<'a> {
    given: &'a Given<'a>,
}

impl<'a> Reader<'a> {
    fn one<T: FromStr<Err: ToString>>(&self, flag: &str, default: T) -> Result<T> {
        match self.given.value(flag) {
            None => Ok(default),
            Some(text) => text.parse().or_else(|error: T::Err| refuse(&long(flag), describe(text, &error))),
        }
    }

    fn list<T: FromStr<Err: ToString>>(&self, flag: &str, default: Vec<T>) -> Result<Vec<T>> {
        self.given.value(flag).map_or(Ok(default), |text| list(&long(flag), text))
    }

    fn interfaces(&self, flag: &str, default: Vec<String>) -> Result<Vec<String>> {
        let Some(text) = self.given.value(flag) else { return Ok(default) };
        items(text)
            .map(address::interface)
            .collect::<std::result::Result<_, _>>()
            .or_else(|error| refuse(&long(flag), error))
    }

    fn switch(&self, flag: &str) -> Result<bool> {
        match self.given.value(flag) {
            None => Ok(false),
            Some("1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(true),
            Some("" | "0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(false),
            Some(other) => refuse(&long(flag), format!("{other:?} is neither true nor false")),
        }
    }
}

fn long(flag: &str) -> String {
    format!("--{flag}")
}

fn describe(text: &str, error: &impl ToString) -> String {
    let error = error.to_string();
    if error.contains(&format!("{text:?}")) { error } else { format!("{text:?}: {error}") }
}

fn list<T: FromStr<Err: ToString>>(flag: &str, text: &str) -> Result<Vec<T>> {
    items(text)
        .map(|item| item.parse().or_else(|error: T::Err| refuse(flag, describe(item, &error))))
        .collect()
}

pub(super) fn request(given: &Given<'_>, explain: bool, around: &Surroundings) -> Result<Request> {
    let reader = Reader { given };
    let mut warnings = Vec::new();
    let options = options(&reader, around, &mut warnings)?;
    supported(&options)?;
    let command = if explain {
        Command::Explain(Box::new(packet(&reader, around)?))
    } else if reader.switch("dry-run")? {
        Command::DryRun
    } else {
        Command::Run { work: work(&reader)?, validation: validation(&reader)? }
    };
    let variant = match given.value("force-iptables-binary") {
        None | Some("") => None,
        Some("legacy") => Some(Variant::Legacy),
        Some("nft") => Some(Variant::Nft),
        Some(other) => {
            return refuse("--force-iptables-binary", format!("{other:?} is neither legacy nor nft"));
        }
    };
    Ok(Request {
        options,
        command,
        nft: reader.switch("native-nftables")?,
        variant,
        network_namespace: given
            .value("network-namespace")
            .filter(|path| !path.is_empty())
            .map(str::to_owned),
        cni: reader.switch("cni-mode")?,
        warnings,
    })
}

fn options(reader: &Reader<'_>, around: &Surroundings, warnings: &mut Vec<String>) -> Result<Options> {
    let given = reader.given;
    let base = match given.value("preset") {
        None => preset::none(),
        Some(name) => match preset::named(name) {
            Some(options) => options,
            None => return refuse("--preset", format!("{name:?} is none of {}", preset::NAMES.join(", "))),
        },
    };
    let (proxy_uids, proxy_gids) = owners(reader, &base, around)?;
    let options = Options {
        families: families(reader, around)?,
        outbound_port: reader.one("envoy-port", base.outbound_port)?,
        inbound_port: reader.one("inbound-capture-port", base.inbound_port)?,
        tunnel_port: reader.one("inbound-tunnel-port", base.tunnel_port)?,
        proxy_uids,
        proxy_gids,
        interception: match given.value("istio-inbound-interception-mode") {
            None => base.interception,
            Some("" | "REDIRECT") => Interception::Redirect,
            Some("TPROXY") => Interception::TProxy,
            Some(other) => {
                let reason = format!("{other:?} is neither REDIRECT nor TPROXY");
                return refuse("--istio-inbound-interception-mode", reason);
            }
        },
        inbound: inbound(reader, base.inbound.clone())?,
        inbound_sources_exclude: reader.list("exclude-inbound-sources", base.inbound_sources_exclude)?,
        interfaces_exclude: reader.interfaces("istio-exclude-interfaces", base.interfaces_exclude)?,
        virtual_interfaces: reader.interfaces("kube-virt-interfaces", base.virtual_interfaces)?,
        outbound: match given.value("istio-service-cidr") {
            None => base.outbound,
            Some("*") => Ranges::All,
            Some(text) => Ranges::Only(list("--istio-service-cidr", text)?),
        },
        outbound_exclude: reader.list::<Cidr>("istio-service-exclude-cidr", base.outbound_exclude)?,
        outbound_ports: reader.list("istio-outbound-ports", base.outbound_ports)?,
        outbound_ports_exclude: reader
            .list("istio-local-outbound-ports-exclude", base.outbound_ports_exclude)?,
        groups: groups(given)?,
        dns: dns(reader, around, warnings)?,
        drop_invalid: reader.switch("drop-invalid")?,
        tproxy_mark: reader.one("istio-inbound-tproxy-mark", base.tproxy_mark)?,
        tproxy_table: reader.one("istio-inbound-tproxy-route-table", base.tproxy_table)?,
        loopback: loopback(given)?.unwrap_or(base.loopback),
        pod_ip: given
            .value("pod-ip")
            .map(|_| reader.one("pod-ip", IpAddr::from([0, 0, 0, 0])))
            .transpose()?,
        trace: reader.switch("iptables-trace-logging")?,
        mesh: base.mesh,
    };
    Ok(options)
}

/// Whose connections are the proxy's. A user that is not named is looked up, as Istio does; a group is the user's.
fn owners(reader: &Reader<'_>, base: &Options, around: &Surroundings) -> Result<(Vec<Owner>, Vec<Owner>)> {
    let users: Vec<Owner> = reader.list("proxy-uid", Vec::new())?;
    let groups: Vec<Owner> = reader.list("proxy-gid", Vec::new())?;
    let named = !users.is_empty();
    let users = if named || reader.given.value("preset").is_some() {
        if named { users } else { base.proxy_uids.clone() }
    } else {
        let name = reader.given.variable("ENVOY_USER").unwrap_or("istio-proxy");
        Surroundings::lookup(&around.passwd, name)
            .map_or_else(|| base.proxy_uids.clone(), |uid| vec![Owner::Number(uid)])
    };
    let groups = match (groups.is_empty(), base.proxy_gids.is_empty()) {
        (true, true) => Vec::new(),
        (true, false) => users.clone(),
        (false, _) => groups,
    };
    Ok((users, groups))
}

fn families(reader: &Reader<'_>, around: &Surroundings) -> Result<Families> {
    let v6 = around.addresses.iter().any(IpAddr::is_ipv6);
    let v4 = around.addresses.iter().any(IpAddr::is_ipv4);
    let dual = reader.switch("dual-stack")?;
    match reader.given.value("ip-families") {
        None | Some("auto") => Ok(if v6 && (dual || !v4) { Families::Both } else { Families::V4 }),
        Some("v4") => Ok(Families::V4),
        Some("both") => Ok(Families::Both),
        Some(other) => refuse("--ip-families", format!("{other:?} is none of auto, v4, both")),
    }
}

fn inbound(reader: &Reader<'_>, base: Inbound) -> Result<Inbound> {
    let excluded = reader.given.value("istio-local-exclude-ports");
    let excluded: Option<Vec<Ports>> =
        excluded.map(|text| list("--istio-local-exclude-ports", text)).transpose()?;
    match (reader.given.value("istio-inbound-ports"), base) {
        (Some("*"), Inbound::AllBut(base)) | (None, Inbound::AllBut(base)) => {
            Ok(Inbound::AllBut(excluded.unwrap_or(base)))
        }
        (Some("*"), Inbound::Only(_)) => Ok(Inbound::AllBut(excluded.unwrap_or_default())),
        (Some(text), _) => Ok(Inbound::Only(list("--istio-inbound-ports", text)?)),
        (None, only) => Ok(only),
    }
}

fn groups(given: &Given<'_>) -> Result<Groups> {
    const INCLUDE: &str = "ISTIO_OUTBOUND_OWNER_GROUPS";
    const EXCLUDE: &str = "ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE";
    match given.variable(INCLUDE).unwrap_or("*") {
        "*" => Ok(Groups::AllBut(list(EXCLUDE, given.variable(EXCLUDE).unwrap_or_default())?)),
        text => {
            let groups: Vec<Owner> = list(INCLUDE, text)?;
            if groups.len() > MAX_GROUPS {
                return refuse(INCLUDE, format!("at most {MAX_GROUPS} groups, not {}", groups.len()));
            }
            Ok(Groups::Only(groups))
        }
    }
}

fn dns(reader: &Reader<'_>, around: &Surroundings, warnings: &mut Vec<String>) -> Result<Option<Dns>> {
    if !reader.switch("redirect-dns")? {
        return Ok(None);
    }
    if reader.switch("capture-all-dns")? {
        return Ok(Some(Dns::All));
    }
    let Some(text) = &around.resolv_conf else {
        return refuse(
            "--redirect-dns",
            "there is no /etc/resolv.conf to take the servers from; --capture-all-dns needs none",
        );
    };
    let servers = text.lines().filter_map(|line| line.trim().strip_prefix("nameserver"));
    let servers: Vec<IpAddr> =
        servers.filter_map(|server| server.trim().split('%').next()?.parse().ok()).collect();
    if servers.is_empty() {
        warnings.push(
            "DNS is not captured: /etc/resolv.conf names no server, and --capture-all-dns is not given"
                .into(),
        );
        return Ok(None);
    }
    Ok(Some(Dns::Servers(servers)))
}

fn loopback(given: &Given<'_>) -> Result<Option<Cidr>> {
    const NAME: &str = "ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR";
    let Some(text) = given.variable(NAME) else { return Ok(None) };
    let range: Cidr = text.parse().or_else(|error| refuse(NAME, error))?;
    if !(range.address().is_ipv4() && range.address().is_loopback() && range.bits() >= 8) {
        return refuse(NAME, format!("{text:?} is not a part of 127.0.0.0/8"));
    }
    Ok(Some(range))
}

/// Refuses what the rules of a mesh have no place for.
fn supported(options: &Options) -> Result<()> {
    let istio = matches!(options.mesh, Mesh::Istio | Mesh::Outrigger);
    let reason = "the rules of this preset have no place for it";
    let wrong = if istio {
        [
            (!options.inbound_sources_exclude.is_empty(), "--exclude-inbound-sources"),
            (options.pod_ip.is_some(), "--pod-ip"),
        ]
        .to_vec()
    } else {
        let osm = options.mesh == Mesh::Osm;
        [
            (options.interception == Interception::TProxy, "--istio-inbound-interception-mode TPROXY"),
            (!options.virtual_interfaces.is_empty(), "--kube-virt-interfaces"),
            (options.dns.is_some(), "--redirect-dns"),
            (options.drop_invalid, "--drop-invalid"),
            (options.trace, "--iptables-trace-logging"),
            (osm && options.groups != Groups::AllBut(Vec::new()), "ISTIO_OUTBOUND_OWNER_GROUPS"),
            (osm && !options.proxy_gids.is_empty(), "--proxy-gid"),
            (!osm && options.pod_ip.is_some(), "--pod-ip"),
        ]
        .to_vec()
    };
    wrong.into_iter().find(|(wrong, _)| *wrong).map_or(Ok(()), |(_, flag)| refuse(flag, reason))
}

fn work(reader: &Reader<'_>) -> Result<Work> {
    Ok(if reader.switch("skip-rule-apply")? {
        Work::Skip
    } else if reader.switch("cleanup-only")? {
        Work::Cleanup
    } else if reader.switch("force-apply")? {
        Work::Force
    } else if reader.switch("reconcile")? {
        Work::Reconcile
    } else {
        Work::Apply
    })
}

fn validation(reader: &Reader<'_>) -> Result<Option<Validation>> {
    let port = reader.one("iptables-probe-port", 15002)?;
    let timeout = reader.given.value("probe-timeout").map_or(Some(Duration::from_secs(5)), duration);
    let Some(timeout) = timeout else {
        return refuse("--probe-timeout", "not a time as 5s, 500ms or 1m30s");
    };
    Ok(reader.switch("run-validation")?.then_some(Validation { port, timeout }))
}

/// A time as Go writes it: numbers with units, one after the other.
fn duration(text: &str) -> Option<Duration> {
    let (mut rest, mut sum) = (text, Duration::ZERO);
    while !rest.is_empty() {
        let digits = rest.find(|letter: char| !letter.is_ascii_digit() && letter != '.')?;
        let (number, tail) = rest.split_at_checked(digits)?;
        let unit_end = tail.find(|letter: char| letter.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at_checked(unit_end)?;
        let seconds = match unit {
            "ms" => 0.001,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        let number: f64 = number.parse().ok()?;
        sum = sum.checked_add(Duration::try_from_secs_f64(number * seconds).ok()?)?;
        rest = tail;
    }
    (!text.is_empty()).then_some(sum)
}

fn packet(reader: &Reader<'_>, around: &Surroundings) -> Result<Packet> {
    let address = |flag: &str| -> Result<SocketAddr> {
        match reader.given.value(flag) {
            Some(text) => text.parse().or_else(|_| {
                refuse(
                    &long(flag),
                    format!("{text:?} is not an address with a port, as 10.0.0.5:4321 or [::1]:80"),
                )
            }),
            None => refuse(&long(flag), "explain needs it"),
        }
    };
    let (from, to) = (address("from")?, address("to")?);
    if from.is_ipv4() != to.is_ipv4() {
        return refuse("--to", "not of the same IP version as --from");
    }
    let direction = match (reader.switch("in")?, reader.switch("out")?) {
        (true, false) => Direction::In,
        (false, true) => Direction::Out,
        _ => return refuse("--in, --out", "explain needs one of them"),
    };
    let id = |flag: &str| reader.given.value(flag).map(|_| reader.one::<u32>(flag, 0)).transpose();
    let uid = id("uid")?;
    let gid = id("gid")?.or(uid);
    let (uid, gid) = match direction {
        Direction::In if uid.is_some() || gid.is_some() => {
            return refuse("--uid, --gid", "a packet that comes in has no owner here");
        }
        Direction::In => (None, None),
        // somebody sends it; who is not named is nobody special
        Direction::Out => (uid.or(Some(65534)), gid.or(Some(65534))),
    };
    let local = to.ip().is_loopback() || to.ip() == from.ip() || around.addresses.contains(&to.ip());
    let interface = match reader.given.value("interface") {
        Some(name) => address::interface(name).or_else(|error| refuse("--interface", error))?,
        None if direction == Direction::Out && local => "lo".into(),
        None => "eth0".into(),
    };
    let protocol = if reader.switch("udp")? { Protocol::Udp } else { Protocol::Tcp };
    let mark = reader.one("mark", 0)?;
    Ok(Packet {
        direction,
        protocol,
        from,
        to,
        uid,
        gid,
        interface,
        state: Tracked::New,
        mark,
        connection_mark: 0,
    })
}
