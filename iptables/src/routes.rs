//! What TPROXY needs beside rules: marked packets stay on this host whatever their destination, and `::6` is an address of
//! this host. All of it may be there already.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::address::Family;
use crate::backend::{Error, run};
use crate::rule::{MarkRoute, Plan};

/// How many equal routing rules are taken away at most.
const MOST_RULES: usize = 16;

/// Sets up what the plan needs.
///
/// # Errors
/// `ip` fails.
pub fn add(plan: &Plan) -> Result<(), Error> {
    if plan.inbound_source_v6 {
        run("ip", &["-6", "address", "replace", "::6/128", "dev", "lo"], "")?;
    }
    let Some(route) = plan.route else { return Ok(()) };
    for family in plan.families() {
        let (flag, table) = (flag(family), route.table.to_string());
        run("ip", &[flag, "route", "replace", "local", "default", "dev", "lo", "table", &table], "")?;
        if !has_rule(flag, route)? {
            let mark = route.mark.to_string();
            run("ip", &[flag, "rule", "add", "fwmark", &mark, "lookup", &table], "")?;
        }
    }
    Ok(())
}

/// What [`add`] does, as the commands that would do it, each behind a `#`.
pub fn described(plan: &Plan) -> String {
    let mut text = String::new();
    if plan.inbound_source_v6 {
        text += "# ip -6 address replace ::6/128 dev lo\n";
    }
    for family in plan.families() {
        if let Some(MarkRoute { mark, table }) = plan.route {
            let flag = flag(family);
            text += &format!("# ip {flag} route replace local default dev lo table {table}\n");
            text += &format!("# ip {flag} rule add fwmark {mark} lookup {table}\n");
        }
    }
    text
}

/// Takes away what the plan needs.
///
/// # Errors
/// `ip` fails.
pub fn remove(plan: &Plan) -> Result<(), Error> {
    if plan.inbound_source_v6 && local_addresses(true).contains(&IpAddr::V6(Ipv6Addr::from(6))) {
        run("ip", &["-6", "address", "del", "::6/128", "dev", "lo"], "")?;
    }
    let Some(route) = plan.route else { return Ok(()) };
    for family in plan.families() {
        let (flag, table, mark) = (flag(family), route.table.to_string(), route.mark.to_string());
        for _ in 0..MOST_RULES {
            if !has_rule(flag, route)? {
                break;
            }
            run("ip", &[flag, "rule", "del", "fwmark", &mark, "lookup", &table], "")?;
        }
        // a table that is not there cannot be asked for its routes
        let _ = run("ip", &[flag, "route", "del", "local", "default", "dev", "lo", "table", &table], "");
    }
    Ok(())
}

fn flag(family: Family) -> &'static str {
    match family {
        Family::V4 => "-4",
        Family::V6 => "-6",
    }
}

/// Whether marked packets have their routing table. Lines are like `32765: from all fwmark 0x539 lookup 133`.
fn has_rule(flag: &str, route: MarkRoute) -> Result<bool, Error> {
    let rules = run("ip", &[flag, "rule", "show"], "")?.stdout;
    let (mark, table) = (format!("{:#x}", route.mark), route.table.to_string());
    Ok(rules.lines().any(|line| {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let follows = |name: &str, value: &str| words.windows(2).any(|pair| pair == [name, value]);
        follows("fwmark", &mark) && follows("lookup", &table) && follows("from", "all")
    }))
}

/// The addresses of this host, IPv4 first; without `all` only those that others can reach.
pub fn local_addresses(all: bool) -> Vec<IpAddr> {
    let read =
        |name: &str| std::fs::read_to_string(format!("/proc/thread-self/net/{name}")).unwrap_or_default();
    let mut addresses: Vec<IpAddr> = Vec::new();
    for address in v4(&read("fib_trie")).map(IpAddr::V4).chain(v6(&read("if_inet6")).map(IpAddr::V6)) {
        let reachable = match address {
            IpAddr::V4(address) => !address.is_loopback() && !address.is_link_local(),
            IpAddr::V6(address) => {
                !address.is_loopback() && !address.is_unicast_link_local() && address != Ipv6Addr::from(6)
            }
        };
        if (all || reachable) && !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    addresses
}

/// Whether the kernel speaks IPv6 here.
pub fn has_ipv6() -> bool {
    std::path::Path::new("/proc/net/if_inet6").exists()
}

/// In `/proc/net/fib_trie` an address of this host stands a line above `/32 host LOCAL`.
fn v4(trie: &str) -> impl Iterator<Item = Ipv4Addr> {
    trie.lines().zip(trie.lines().skip(1)).filter_map(|(line, next)| {
        let address = line.trim().strip_prefix("|-- ")?.parse().ok()?;
        (next.trim() == "/32 host LOCAL").then_some(address)
    })
}

/// In `/proc/net/if_inet6` an address is the first word, 32 digits.
fn v6(table: &str) -> impl Iterator<Item = Ipv6Addr> {
    table.lines().filter_map(|line| {
        let digits = line.split_ascii_whitespace().next().filter(|word| word.len() == 32)?;
        u128::from_str_radix(digits, 16).ok().map(Ipv6Addr::from)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read() {
        let trie = "Local:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 10.0.0.5\n        /32 host LOCAL\n     |-- 10.0.0.255\n        /32 link BROADCAST\n     |-- 127.0.0.1\n        /32 host LOCAL\n";
        assert_eq!(v4(trie).collect::<Vec<_>>(), [Ipv4Addr::new(10, 0, 0, 5), Ipv4Addr::LOCALHOST]);
        let table = "00000000000000000000000000000001 01 80 10 80       lo\nfe80000000000000000000000000abcd 02 40 20 80     eth0\n";
        let expected: [Ipv6Addr; 2] = ["::1".parse().unwrap(), "fe80::abcd".parse().unwrap()];
        assert_eq!(v6(table).collect::<Vec<_>>(), expected);
        assert!(local_addresses(true).contains(&IpAddr::V4(Ipv4Addr::LOCALHOST)));
    }
}
