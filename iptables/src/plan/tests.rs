//! The plans are the published ones: Istio's cases by their flags, OSM's three.

use std::collections::HashMap;
use std::net::IpAddr;

use super::plan;
use crate::address::{Cidr, Family, Ports};
use crate::cli::{self, Surroundings};
use crate::options::{Inbound, Options, Ranges};
use crate::rule::Plan;
use crate::{nft, preset, restore};

const CASES: &str = include_str!("../../goldens/cases.txt");

struct Case {
    name: String,
    plan: Plan,
}

fn cases() -> Vec<Case> {
    let lines = CASES.lines().filter(|line| !line.starts_with('#'));
    let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    lines
        .map(|line| {
            let fields: Vec<&str> = line.split('|').map(str::trim).collect();
            let [name, flags, variables, servers] = fields[..] else { panic!("{line}") };
            let arguments = ["outrigger-iptables".to_owned()].into_iter().chain(words(flags));
            let variables = words(variables)
                .into_iter()
                .map(|pair| pair.split_once('=').map(|(a, b)| (a.into(), b.into())).unwrap());
            let resolv = words(servers).iter().map(|server| format!("nameserver {server}\n")).collect();
            let around = Surroundings { resolv_conf: Some(resolv), ..Surroundings::default() };
            let environment: HashMap<String, String> = variables.collect();
            let request = cli::parse(arguments, &environment, &around).unwrap();
            Case { name: name.to_owned(), plan: plan(&request.options) }
        })
        .collect()
}

/// Each table with its lines in an order of their own.
fn normal(text: &str) -> Vec<(String, Vec<String>)> {
    let mut tables: Vec<(String, Vec<String>)> = Vec::new();
    for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        match line.strip_prefix('*').or(line.strip_prefix("add table ")) {
            Some(table) => tables.push((table.trim().to_owned(), Vec::new())),
            None => tables.last_mut().unwrap().1.push(line.to_owned()),
        }
    }
    tables.iter_mut().for_each(|(_, lines)| lines.sort());
    tables
}

fn text(plan: &Plan) -> String {
    plan.families().map(|family| restore::render(plan, family)).collect()
}

fn golden(name: &str) -> String {
    let path = format!("{}/goldens/{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

#[test]
fn istio_cases_are_the_published_ones() {
    for Case { name, plan } in cases() {
        assert_eq!(normal(&text(&plan)), normal(&golden(&format!("istio/{name}.txt"))), "{name}");
    }
}

#[test]
fn istio_on_nftables() {
    let case = cases().into_iter().find(|case| case.name == "empty").unwrap();
    assert_eq!(normal(&nft::render(&case.plan)), normal(&golden("istio/empty.nft")));
}

fn osm() -> Options {
    preset::named("osm").unwrap()
}

#[test]
fn osm_cases_are_the_published_ones() {
    let range = |text: &str| text.parse::<Cidr>().unwrap();
    let ports = |ports: &[u16]| ports.iter().copied().map(Ports::from).collect::<Vec<_>>();
    let second = Options {
        inbound: Inbound::AllBut(ports(&[30, 40])),
        interfaces_exclude: vec!["eth0".into(), "eth1".into()],
        outbound_exclude: vec![range("1.1.1.1/32"), range("2.2.2.2/32")],
        outbound_ports_exclude: ports(&[10, 20]),
        outbound: Ranges::Only(vec![range("3.3.3.3/32"), range("4.4.4.4/32")]),
        ..osm()
    };
    let pod: IpAddr = "10.0.0.9".parse().unwrap();
    let third = Options { pod_ip: Some(pod), ..osm() };
    for (number, options) in [(1, osm()), (2, second), (3, third)] {
        // the init container's shell puts the address in
        let golden = golden(&format!("osm/case-{number}.txt")).replace("$POD_IP", "10.0.0.9");
        assert_eq!(normal(&restore::render(&plan(&options), Family::V4)), normal(&golden), "case {number}");
    }
}
