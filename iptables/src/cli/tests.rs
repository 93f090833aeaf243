use std::collections::HashMap;
use std::time::Duration;

use super::{Command, Refusal, Request, Surroundings, Validation, Work, parse};
use crate::address::Owner;
use crate::options::{Families, Inbound, Interception};
use crate::rule::Protocol;

fn with(flags: &str, variables: &[(&str, &str)], around: &Surroundings) -> Result<Request, Refusal> {
    let arguments = std::iter::once("outrigger-iptables").chain(flags.split_whitespace()).map(str::to_owned);
    let environment: HashMap<String, String> =
        variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    parse(arguments, &environment, around)
}

fn read(flags: &str) -> Result<Request, Refusal> {
    with(flags, &[], &Surroundings::default())
}

#[test]
fn flags_win_over_variables_and_variables_over_presets() {
    let around = Surroundings::default();
    let port = |flags, variables: &[_]| with(flags, variables, &around).unwrap().options.inbound_port;
    assert_eq!(port("", &[]), 15006);
    assert_eq!(port("--preset linkerd", &[]), 4143);
    assert_eq!(port("--preset linkerd", &[("INBOUND_CAPTURE_PORT", "99")]), 99);
    assert_eq!(port("-z 98", &[("INBOUND_CAPTURE_PORT", "99")]), 98);
    // the last variable of several counts, as in Istio
    let dns = |variables: &[_]| with("--capture-all-dns", variables, &around).unwrap().options.dns.is_some();
    assert!(dns(&[("ISTIO_META_DNS_CAPTURE", "true")]));
    assert!(!dns(&[("REDIRECT_DNS", "true"), ("ISTIO_META_DNS_CAPTURE", "false")]));
}

#[test]
fn the_injectors_command_line() {
    let flags = "-p 15001 -z 15006 -u 1337 -m REDIRECT -i * -x= -b * -d 15090,15021,15020";
    let request = read(flags).unwrap();
    let preset = read("--preset istio").unwrap();
    assert_eq!(request.options, preset.options);
    assert!(matches!(request.command, Command::Run { work: Work::Apply, validation: None }));
    let logged =
        read(&format!("istio-iptables {flags} --log_output_level=default:info --log_as_json")).unwrap();
    assert_eq!(logged.options, request.options);
    let request = read("--run-validation --skip-rule-apply --probe-timeout 1m0.5s").unwrap();
    let validation = Some(Validation { port: 15002, timeout: Duration::from_millis(60_500) });
    assert!(
        matches!(request.command, Command::Run { work: Work::Skip, validation: found } if found == validation)
    );
}

#[test]
fn the_proxys_user_is_looked_up() {
    let around = Surroundings {
        passwd: "root:x:0:0::/:\nistio-proxy:x:77:78::/:\nenvoy:x:5:6::/:\n".into(),
        ..Surroundings::default()
    };
    let uids = |flags, variables: &[_]| {
        let options = with(flags, variables, &around).unwrap().options;
        assert_eq!(options.proxy_uids, options.proxy_gids);
        options.proxy_uids
    };
    assert_eq!(uids("", &[]), [Owner::Number(77)]);
    assert_eq!(uids("", &[("ENVOY_USER", "envoy")]), [Owner::Number(5)]);
    assert_eq!(uids("", &[("ENVOY_USER", "nobody")]), [Owner::Number(1337)]);
    assert_eq!(uids("-u 1,2,", &[]), [Owner::Number(1), Owner::Number(2)]);
    assert_eq!(uids("--preset istio", &[]), [Owner::Number(1337)]);
}

#[test]
fn families_follow_the_hosts_addresses() {
    let families = |flags: &str, addresses: &[&str]| {
        let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
        with(flags, &[], &Surroundings { addresses, ..Surroundings::default() }).unwrap().options.families
    };
    assert_eq!(families("", &["10.0.0.5", "2001:db8::5"]), Families::V4);
    assert_eq!(families("--dual-stack", &["10.0.0.5", "2001:db8::5"]), Families::Both);
    assert_eq!(families("--dual-stack", &["10.0.0.5"]), Families::V4);
    assert_eq!(families("", &["2001:db8::5"]), Families::Both);
    assert_eq!(families("--ip-families=both", &["10.0.0.5"]), Families::Both);
}

#[test]
fn inbound_ports() {
    let inbound = |flags: &str| read(flags).unwrap().options.inbound;
    assert_eq!(inbound(""), Inbound::Only(Vec::new()));
    assert_eq!(inbound("-b 80,90:95"), Inbound::Only(vec!["80".parse().unwrap(), "90:95".parse().unwrap()]));
    assert_eq!(inbound("-b * -d 80,"), Inbound::AllBut(vec!["80".parse().unwrap()]));
    // an exclusion means something only where everything is captured
    assert_eq!(inbound("-d 80"), Inbound::Only(Vec::new()));
    assert_eq!(inbound("--preset istio -b="), Inbound::Only(Vec::new()));
    assert_eq!(read("-m TPROXY").unwrap().options.interception, Interception::TProxy);
}

#[test]
fn what_is_wrong_is_named() {
    for (flags, flag, reason) in [
        ("-i 10.0.0.0", "--istio-service-cidr", "range of addresses"),
        ("-x *", "--istio-service-exclude-cidr", "range of addresses"),
        ("-p 70000", "--envoy-port", "70000"),
        ("-b 80,x", "--istio-inbound-ports", "port"),
        ("-c eth0;reboot", "--istio-exclude-interfaces", "interface"),
        ("-m tproxy", "--istio-inbound-interception-mode", "TPROXY"),
        ("--reconcile=maybe", "--reconcile", "neither true nor false"),
        ("--force-iptables-binary bpf", "--force-iptables-binary", "legacy"),
        ("--preset kuma", "--preset", "linkerd"),
        ("--probe-timeout 5", "--probe-timeout", "5s"),
        ("--preset osm -m TPROXY", "TPROXY", "no place"),
        ("--preset linkerd -k eth1", "--kube-virt-interfaces", "no place"),
        ("--pod-ip 10.0.0.5", "--pod-ip", "no place"),
        ("--redirect-dns", "--redirect-dns", "resolv.conf"),
        ("explain --from 1.1.1.1:1 --to 2.2.2.2:2", "--in, --out", "one of them"),
        ("explain --from 1.1.1.1:1 --to [::1]:2 --out", "--to", "IP version"),
        ("explain --from 1.1.1.1:1 --to 2.2.2.2:2 --in --uid 5", "--uid", "no owner"),
    ] {
        let refusal = read(flags).expect_err(flags).to_string();
        assert!(refusal.contains(flag) && refusal.contains(reason), "{flags}: {refusal}");
    }
    let many = (0..65).map(|group| group.to_string()).collect::<Vec<_>>().join(",");
    let refusal = with("", &[("ISTIO_OUTBOUND_OWNER_GROUPS", &many)], &Surroundings::default()).unwrap_err();
    assert!(refusal.to_string().contains("at most 64"), "{refusal}");
    for loopback in ["10.0.0.0/8", "127.0.0.0/7", "::1/128", "x"] {
        let variables = [("ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR", loopback)];
        assert!(with("", &variables, &Surroundings::default()).is_err(), "{loopback}");
    }
    assert!(matches!(read("--no-such-flag"), Err(Refusal::Clap(error)) if error.use_stderr()));
    assert!(matches!(read("--help"), Err(Refusal::Clap(error)) if !error.use_stderr()));
}

#[test]
fn packets_to_explain() {
    let request =
        read("explain --preset osm --from 10.0.0.5:1 --to 10.0.0.5:80 --uid 7 --out --udp").unwrap();
    assert_eq!(request.options.inbound_port, 15003);
    let Command::Explain(packet) = request.command else { panic!("{:?}", request.command) };
    assert_eq!((packet.uid, packet.gid, packet.interface.as_str()), (Some(7), Some(7), "lo"));
    assert_eq!(packet.protocol, Protocol::Udp);
}
