use proptest::prelude::*;

use super::{line, parse};
use crate::address::Family;
use crate::plan::plan;
use crate::rule::{Style, Table};
use crate::testing::options;

proptest! {
    #[test]
    fn what_is_written_is_read(options in options()) {
        let plan = plan(&options);
        for rule in [Family::V4, Family::V6].into_iter().flat_map(|family| plan.rules(family)) {
            for style in [Style::Istio, Style::Osm] {
                let text = line(rule, style);
                prop_assert_eq!(parse(rule.table, &text), Some(rule.clone()), "{}", text);
            }
        }
    }
}

/// Pairs of what is given to iptables 1.8.9 and what it gives back.
#[test]
fn the_kernels_words_mean_the_same() {
    let pairs = [
        (
            "-A OUTPUT -p tcp --dport 80 -m owner --uid-owner 1337 -j REDIRECT --to-ports 15001",
            "-A OUTPUT -p tcp -m tcp --dport 80 -m owner --uid-owner 1337 -j REDIRECT --to-ports 15001",
        ),
        (
            "-A X ! -d 127.0.0.1/32 -p tcp -j TPROXY --tproxy-mark 1337/0xffffffff --on-port 15006",
            "-A X ! -d 127.0.0.1/32 -p tcp -j TPROXY --on-port 15006 --on-ip 0.0.0.0 --tproxy-mark 0x539/0xffffffff",
        ),
        (
            "-A X -p tcp -m mark ! --mark 1338 -j MARK --set-mark 1337",
            "-A X -p tcp -m mark ! --mark 0x53a -j MARK --set-xmark 0x539/0xffffffff",
        ),
        (
            "-A OUTPUT -p tcp -m connmark --mark 1337 -j CONNMARK --restore-mark",
            "-A OUTPUT -p tcp -m connmark --mark 0x539 -j CONNMARK --restore-mark --nfmask 0xffffffff --ctmask 0xffffffff",
        ),
        (
            "-A X -o lo ! -d 127.0.0.1/8 -p tcp -m multiport ! --dports 53,15008 -j RETURN",
            "-A X ! -d 127.0.0.0/8 -o lo -p tcp -m multiport ! --dports 53,15008 -j RETURN",
        ),
        (
            "-A X -p tcp -j NFLOG --nflog-prefix \"InboundCapture\" --nflog-group 1337 --nflog-size 20",
            "-A X -p tcp -j NFLOG --nflog-prefix InboundCapture --nflog-group 1337 --nflog-size 20",
        ),
    ];
    for (given, kept) in pairs {
        let (given, kept) = (parse(Table::Nat, given).unwrap(), parse(Table::Nat, kept).unwrap());
        assert!(given.same(&kept), "{given:?}\n{kept:?}");
    }
}

#[test]
fn what_we_never_say_is_not_ours() {
    for line in [
        "-A X -m comment --comment hi -j RETURN",
        "-A X -j MARK --set-xmark 0x1/0xff",
        "-A X -j CONNMARK --save-mark --nfmask 0xff --ctmask 0xffffffff",
        "-A X -p icmp -j ACCEPT",
        "-A X ! -i eth0 -j RETURN",
        "-A X -p tcp",
        "-A X -p tcp -j REDIRECT --to-ports 80-90",
        "-A X -g Y",
        "-A",
        ":X - [0:0]",
        "",
    ] {
        assert_eq!(parse(Table::Nat, line), None, "{line}");
    }
}
