//! The program where it changes nothing: what it prints, and how it ends. These take no privileges.

use std::process::Command;

fn run(flags: &str, variables: &[(&str, &str)]) -> (Option<i32>, String, String) {
    let mut command = Command::new(integration::process::outrigger_iptables().unwrap());
    let output = command.args(flags.split_whitespace()).envs(variables.iter().copied()).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn a_dry_run_prints_the_rules() {
    let golden =
        concat!(env!("CARGO_MANIFEST_DIR"), "/../iptables/goldens/istio/inbound-ports-wildcard-tproxy.txt");
    let golden = std::fs::read_to_string(golden).unwrap();
    let variables =
        [("ISTIO_INBOUND_PORTS", "*"), ("ISTIO_INBOUND_INTERCEPTION_MODE", "TPROXY"), ("DRY_RUN", "true")];
    let (code, out, err) = run("-u 1337 --ip-families v4", &variables);
    let routes =
        "# ip -4 route replace local default dev lo table 133\n# ip -4 rule add fwmark 1337 lookup 133\n";
    assert_eq!((code, out, err), (Some(0), golden + routes, String::new()));

    let (code, out, _) = run("--preset outrigger --native-nftables --dry-run --ip-families v4", &[]);
    assert_eq!(code, Some(0));
    let hook = "add rule inet outrigger-nat output meta nfproto ipv4 counter jump outrigger-hook-output\n";
    assert!(out.starts_with("add table inet outrigger-nat\n") && out.contains(hook), "{out}");
}

#[test]
fn a_packet_is_explained() {
    let packet = "--from 10.0.0.5:4321 --to 10.0.0.9:80 --uid 1000 --out";
    let (code, out, _) = run(&format!("explain --preset osm {packet}"), &[]);
    assert_eq!(code, Some(0));
    assert!(out.contains("captured: redirected to port 15001"), "{out}");
    assert!(
        out.contains("Decided by: -A OSM_PROXY_OUT_REDIRECT -p tcp -j REDIRECT --to-ports 15001"),
        "{out}"
    );
    let (code, out, _) =
        run(&format!("explain {packet}"), &[("ISTIO_SERVICE_CIDR", "*"), ("PROXY_UID", "1000")]);
    assert_eq!(code, Some(0));
    assert!(out.contains("left alone"), "{out}");
    assert!(out.contains("Decided by: -A ISTIO_OUTPUT -m owner --uid-owner 1000 -j RETURN"), "{out}");
}

#[test]
fn what_is_wrong_ends_with_1() {
    for (flags, word) in [
        ("--no-such-flag", "--no-such-flag"),
        ("--preset kuma --dry-run", "linkerd"),
        ("-b 1-0 --dry-run", "--istio-inbound-ports"),
        ("explain --in", "--from"),
        ("--preset istio --network-namespace /nowhere", "/nowhere"),
    ] {
        let (code, out, err) = run(flags, &[]);
        assert_eq!((code, out.as_str()), (Some(1), ""), "{flags}: {err}");
        assert!(err.contains(word), "{flags}: {err}");
    }
    let (code, out, _) = run("--help", &[]);
    assert!(code == Some(0) && out.contains("ISTIO_OUTBOUND_OWNER_GROUPS"));
}
