//! The flags: their names, their variables, how they are read.

use std::collections::HashMap;

use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Command};

/// What a flag takes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Takes {
    Value(&'static str),
    /// `--flag`, `--flag=true`, `--flag=false`
    Switch,
}

struct Flag {
    name: &'static str,
    short: Option<char>,
    takes: Takes,
    /// Variables that set it; the last that is set counts.
    variables: &'static [&'static str],
    help: &'static str,
}

const fn value(
    name: &'static str,
    short: char,
    what: &'static str,
    variables: &'static [&'static str],
    help: &'static str,
) -> Flag {
    let short = if short == ' ' { None } else { Some(short) };
    Flag { name, short, takes: Takes::Value(what), variables, help }
}

const fn switch(name: &'static str, variables: &'static [&'static str], help: &'static str) -> Flag {
    Flag { name, short: None, takes: Takes::Switch, variables, help }
}

/// Flags that shape the plan.
const PLAN: &[Flag] = &[
    value("preset", ' ', "MESH", &[], "Start from what a mesh asks for: istio, osm, linkerd or outrigger"),
    value("envoy-port", 'p', "PORT", &[], "The proxy's port for outbound connections"),
    value(
        "inbound-capture-port",
        'z',
        "PORT",
        &["INBOUND_CAPTURE_PORT"],
        "The proxy's port for inbound connections",
    ),
    value(
        "inbound-tunnel-port",
        'e',
        "PORT",
        &["INBOUND_TUNNEL_PORT"],
        "The proxy's port for tunnels, which is reached directly",
    ),
    value(
        "proxy-uid",
        'u',
        "USERS",
        &["PROXY_UID"],
        "The proxy's users, whose connections are not captured [default: the user of $ENVOY_USER or istio-proxy, else 1337]",
    ),
    value("proxy-gid", 'g', "GROUPS", &["PROXY_GID"], "The proxy's groups [default: as --proxy-uid]"),
    value(
        "istio-inbound-interception-mode",
        'm',
        "MODE",
        &["ISTIO_INBOUND_INTERCEPTION_MODE"],
        "How inbound connections reach the proxy: REDIRECT or TPROXY (which keeps the client's address)",
    ),
    value(
        "istio-inbound-ports",
        'b',
        "PORTS",
        &["ISTIO_INBOUND_PORTS"],
        "Inbound ports to capture, or * for all; empty: none",
    ),
    value(
        "istio-local-exclude-ports",
        'd',
        "PORTS",
        &["ISTIO_LOCAL_EXCLUDE_PORTS"],
        "Inbound ports to leave alone when all others are captured",
    ),
    value(
        "istio-exclude-interfaces",
        'c',
        "INTERFACES",
        &["ISTIO_EXCLUDE_INTERFACES"],
        "Interfaces whose traffic is left alone",
    ),
    value(
        "istio-service-cidr",
        'i',
        "RANGES",
        &["ISTIO_SERVICE_CIDR"],
        "Destinations whose outbound connections are captured, or * for all; empty: none",
    ),
    value(
        "istio-service-exclude-cidr",
        'x',
        "RANGES",
        &["ISTIO_SERVICE_EXCLUDE_CIDR"],
        "Destinations to leave alone",
    ),
    value(
        "istio-outbound-ports",
        'q',
        "PORTS",
        &["ISTIO_OUTBOUND_PORTS"],
        "Outbound ports to capture whatever the destination",
    ),
    value(
        "istio-local-outbound-ports-exclude",
        'o',
        "PORTS",
        &["ISTIO_LOCAL_OUTBOUND_PORTS_EXCLUDE"],
        "Outbound ports to leave alone",
    ),
    value(
        "kube-virt-interfaces",
        'k',
        "INTERFACES",
        &["KUBE_VIRT_INTERFACES"],
        "Interfaces of virtual machines: what comes in through them is outbound",
    ),
    value(
        "istio-inbound-tproxy-mark",
        't',
        "MARK",
        &["ISTIO_INBOUND_TPROXY_MARK"],
        "The mark of packets that are diverted (TPROXY)",
    ),
    value(
        "istio-inbound-tproxy-route-table",
        'r',
        "TABLE",
        &["ISTIO_INBOUND_TPROXY_ROUTE_TABLE"],
        "The routing table of packets that are diverted (TPROXY)",
    ),
    switch(
        "iptables-trace-logging",
        &["IPTABLES_TRACE_LOGGING"],
        "Copy the head of captured packets to the log group 1337",
    ),
    switch(
        "redirect-dns",
        &["REDIRECT_DNS", "ISTIO_META_DNS_CAPTURE"],
        "Capture DNS queries to the servers of resolv.conf",
    ),
    switch("capture-all-dns", &["CAPTURE_ALL_DNS"], "With --redirect-dns: capture queries to any server"),
    switch(
        "drop-invalid",
        &["DROP_INVALID", "INVALID_DROP"],
        "Drop inbound packets of unknown connections instead of resetting them",
    ),
    switch(
        "dual-stack",
        &["DUAL_STACK", "ISTIO_DUAL_STACK"],
        "Set up IPv6 beside IPv4 if this host has an address of it",
    ),
    value(
        "ip-families",
        ' ',
        "FAMILIES",
        &[],
        "auto (as the host's addresses and --dual-stack say), v4, or both",
    ),
    value(
        "exclude-inbound-sources",
        ' ',
        "RANGES",
        &[],
        "Sources whose inbound connections are left alone (presets osm, linkerd)",
    ),
    value(
        "pod-ip",
        ' ',
        "ADDRESS",
        &[],
        "Where the proxy's connections to 127.0.0.1 go instead (preset osm)",
    ),
    switch("native-nftables", &["NATIVE_NFTABLES"], "Use nftables itself, not iptables"),
];

/// Flags that say what to do with it.
const WORK: &[Flag] = &[
    Flag {
        name: "dry-run",
        short: Some('n'),
        takes: Takes::Switch,
        variables: &["DRY_RUN"],
        help: "Print the rules and change nothing",
    },
    switch("skip-rule-apply", &["SKIP_RULE_APPLY"], "Leave the rules as they are"),
    switch(
        "run-validation",
        &["RUN_VALIDATION"],
        "Try the rules with a connection; exit code 126 if they do not work",
    ),
    value(
        "iptables-probe-port",
        ' ',
        "PORT",
        &["IPTABLES_PROBE_PORT"],
        "The port that the validation connects to [default: 15002]",
    ),
    value("probe-timeout", ' ', "TIME", &["PROBE_TIMEOUT"], "How long the validation may take [default: 5s]"),
    value("network-namespace", ' ', "PATH", &["NETWORK_NAMESPACE"], "Work in this network namespace"),
    switch(
        "cni-mode",
        &["CNI_MODE"],
        "Called by a CNI plugin: take the namespace's lock of iptables, not the host's",
    ),
    switch("reconcile", &["RECONCILE"], "Replace rules of another configuration, instead of refusing"),
    switch("cleanup-only", &["CLEANUP_ONLY"], "Take the rules away"),
    switch("force-apply", &["FORCE_APPLY"], "Replace the rules even if they are in place"),
    value(
        "force-iptables-binary",
        ' ',
        "VARIANT",
        &["FORCE_IPTABLES_BINARY"],
        "Use this variant of iptables: legacy or nft",
    ),
];

/// Flags of Istio's log, which injectors pass. This program says a line or two to standard error, whatever they are.
const LOG: &[Flag] = &[
    value("log_output_level", ' ', "LEVELS", &[], "Taken from injectors; there is no log here"),
    value("log_caller", ' ', "SCOPES", &[], "As --log_output_level"),
    value("log_stacktrace_level", ' ', "LEVELS", &[], "As --log_output_level"),
    value("log_target", ' ', "PATHS", &[], "As --log_output_level"),
    value("vklog", ' ', "LEVEL", &[], "As --log_output_level"),
    switch("log_as_json", &[], "As --log_output_level"),
];

/// Flags of `explain`.
const EXPLAIN: &[Flag] = &[
    value("from", ' ', "ADDRESS:PORT", &[], "Where the packet comes from"),
    value("to", ' ', "ADDRESS:PORT", &[], "Where it goes"),
    value("uid", ' ', "USER", &[], "The user of the sending process"),
    value("gid", ' ', "GROUP", &[], "The group of the sending process [default: as --uid]"),
    switch("in", &[], "It comes from elsewhere"),
    switch("out", &[], "A process of this host sends it"),
    switch("udp", &[], "It is UDP"),
    value(
        "interface",
        ' ',
        "NAME",
        &[],
        "Where it comes in or goes out [default: lo for this host's addresses, else eth0]",
    ),
    value("mark", ' ', "MARK", &[], "Its mark"),
];

const VARIABLES: &str = "Further variables: ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR (127.0.0.1/32), ISTIO_OUTBOUND_OWNER_GROUPS (*), \
                         ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE, ENVOY_USER (istio-proxy). Exit codes: 0, 1 for an error, 126 when \
                         --run-validation finds no rules at work.";

pub(super) fn command() -> Command {
    let explain = Command::new("explain")
        .about("Says what the plan does to a packet, and which rule decides")
        .args(EXPLAIN.iter().chain(PLAN).map(argument));
    Command::new("outrigger-iptables")
        .about("Redirects a workload's traffic to its sidecar, as istio-iptables does")
        .version(env!("CARGO_PKG_VERSION"))
        .after_help(VARIABLES)
        .args(PLAN.iter().chain(WORK).chain(LOG).map(argument))
        .subcommand(explain)
}

fn argument(flag: &Flag) -> Arg {
    let mut help = flag.help.to_owned();
    if !flag.variables.is_empty() {
        help += &format!(" [${}]", flag.variables.join(", $"));
    }
    let argument = Arg::new(flag.name).long(flag.name).help(help).overrides_with(flag.name);
    let argument = match flag.short {
        Some(short) => argument.short(short),
        None => argument,
    };
    match flag.takes {
        Takes::Value(what) => argument.value_name(what).allow_hyphen_values(true),
        Takes::Switch => {
            argument.value_name("BOOL").num_args(0..=1).require_equals(true).default_missing_value("true")
        }
    }
}

/// What was given, by flag or variable.
pub(super) struct Given<'a> {
    pub matches: &'a ArgMatches,
    pub environment: &'a HashMap<String, String>,
}

impl<'a> Given<'a> {
    /// The value of a flag; `None` if neither it nor its variable was given.
    pub fn value(&self, name: &str) -> Option<&'a str> {
        let known = self.matches.try_get_one::<String>(name).ok().flatten();
        if let Some(value) =
            known.filter(|_| self.matches.value_source(name) == Some(ValueSource::CommandLine))
        {
            return Some(value);
        }
        let flag = PLAN.iter().chain(WORK).chain(EXPLAIN).find(|flag| flag.name == name)?;
        flag.variables.iter().rev().find_map(|variable| self.variable(variable))
    }

    pub fn variable(&self, name: &str) -> Option<&'a str> {
        self.environment.get(name).map(String::as_str)
    }
}
