//! An explanation for people.

use std::fmt::Write;

use super::{Direction, Explanation, Packet, Verdict};
use crate::restore;
use crate::rule::{Rule, Style, Target};

/// The answer first, then the rule that decides, then every rule that the packet met.
pub fn in_words(packet: &Packet, explanation: &Explanation<'_>) -> String {
    let mut text = format!("{}\n{}\n", question(packet), answer(packet, &explanation.verdict));
    match explanation.deciding() {
        Some(step) => {
            let _ = writeln!(text, "Decided by: {}", described(step.rule));
        }
        None => text += "No rule applies to it.\n",
    }
    if !explanation.steps.is_empty() {
        text += "On its way:\n";
    }
    for step in &explanation.steps {
        let _ = writeln!(text, "  {} in {}: {}", step.rule.table, step.hook, described(step.rule));
    }
    if explanation.packet.mark != packet.mark {
        let _ = writeln!(text, "It leaves with the mark {}.", explanation.packet.mark);
    }
    text
}

fn question(packet: &Packet) -> String {
    let Packet { protocol, from, to, interface, .. } = packet;
    let kind = protocol.name().to_uppercase();
    match packet.direction {
        Direction::In => format!("Inbound {kind} from {from} to {to}, coming in through {interface}:"),
        Direction::Out => {
            let owner = match (packet.uid, packet.gid) {
                (Some(uid), Some(gid)) => format!(" of user {uid}, group {gid}"),
                (Some(uid), None) => format!(" of user {uid}"),
                (None, Some(gid)) => format!(" of group {gid}"),
                (None, None) => String::new(),
            };
            format!("Outbound {kind}{owner} from {from} to {to}, going out through {interface}:")
        }
    }
}

fn answer(packet: &Packet, verdict: &Verdict) -> String {
    let to = packet.to;
    match verdict {
        Verdict::Passes => format!("It is left alone and goes to {to}."),
        Verdict::Dropped => "It is dropped.".into(),
        Verdict::Redirected(port) => {
            format!(
                "It is captured: redirected to port {port} of this host, which can ask for {to} (SO_ORIGINAL_DST)."
            )
        }
        Verdict::Rewritten(address) => format!("Its destination becomes {address}:{}.", to.port()),
        Verdict::Diverted(port) => {
            let from = packet.from;
            format!(
                "It is captured: handed to the transparent socket on port {port}, which sees {from} and {to} unchanged."
            )
        }
        Verdict::ToItsSocket => {
            "It belongs to a connection that this host has, and goes to its socket.".into()
        }
    }
}

fn described(rule: &Rule) -> String {
    let what = match &rule.target {
        Target::Return => "leaves the chain",
        Target::Jump(_) => "looks further",
        Target::Accept => "accepts",
        Target::Drop => "drops",
        Target::Redirect(_) | Target::TProxy { .. } => "captures",
        Target::Dnat(_) => "rewrites the destination",
        Target::SetMark(_) | Target::SaveMark | Target::RestoreMark => "marks",
        Target::Zone(_) => "tracks apart",
        Target::Log(_) => "logs",
    };
    format!("{} ({what})", restore::line(rule, Style::Istio))
}
