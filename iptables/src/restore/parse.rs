//! Reading a line of `iptables-save`. The kernel gives rules back in other words than it took them: marks in hexadecimal with
//! a mask, `-m tcp` before a port, ranges without host bits.

use crate::rule::{ChainName, Is, Match, Place, Protocol, Rule, Table, Target, Tracked};

/// The rule that a line (`-A CHAIN ...` or `-I CHAIN [N] ...`) of a table stands for; `None` when it says something that our
/// rules never say: then it is somebody else's.
pub fn parse(table: Table, line: &str) -> Option<Rule> {
    let mut words = Words(line.split_ascii_whitespace().peekable());
    let command = words.next()?;
    let chain = ChainName(words.next()?.to_owned());
    let place = match command {
        "-A" => Place::Last,
        "-I" => match words.0.peek().and_then(|word| word.parse().ok()) {
            Some(number) => {
                words.next();
                Place::At(number)
            }
            None => Place::First,
        },
        _ => return None,
    };
    let mut matches = Vec::new();
    let mut module = "";
    while let Some(word) = words.next() {
        let (is, word) = if word == "!" { (Is::Not, words.next()?) } else { (Is::Is, word) };
        match word {
            "-m" | "--match" => module = words.next()?,
            "-j" if is == Is::Is => {
                let target = target(words.next()?, &mut words)?;
                return words.next().is_none().then_some(Rule { table, chain, place, matches, target });
            }
            _ => matches.push(condition(word, is, module, words.next()?)?),
        }
    }
    None
}

struct Words<'a>(std::iter::Peekable<std::str::SplitAsciiWhitespace<'a>>);

impl<'a> Words<'a> {
    fn next(&mut self) -> Option<&'a str> {
        self.0.next()
    }

    /// The words that are left, as flags with their values.
    fn flags(&mut self) -> Option<Vec<(&'a str, &'a str)>> {
        let mut flags = Vec::new();
        while let Some(flag) = self.next() {
            // the flags of CONNMARK stand alone
            let value = if flag.ends_with("e-mark") { "" } else { self.next()? };
            flags.push((flag, value));
        }
        Some(flags)
    }
}

fn condition(flag: &str, is: Is, module: &str, value: &str) -> Option<Match> {
    let positive = is == Is::Is;
    Some(match flag {
        "-i" if positive => Match::In(value.to_owned()),
        "-o" if positive => Match::Out(value.to_owned()),
        "-s" => Match::Source(is, value.parse().ok()?),
        "-d" => Match::Destination(is, value.parse().ok()?),
        "-p" if positive => Match::Protocol(match value {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            _ => return None,
        }),
        "--sport" => Match::SourcePort(is, value.parse().ok()?),
        "--dport" => Match::Port(is, value.parse().ok()?),
        "--dports" if module == "multiport" => {
            Match::AnyPort(is, value.split(',').map(|ports| ports.parse().ok()).collect::<Option<_>>()?)
        }
        "--uid-owner" => Match::Uid(is, value.parse().ok()?),
        "--gid-owner" => Match::Gid(is, value.parse().ok()?),
        "--mark" if module == "mark" => Match::Mark(is, mark(value)?),
        "--mark" if module == "connmark" => Match::ConnectionMark(is, mark(value)?),
        "--ctstate" if positive => {
            let mut states = value.split(',').map(tracked).collect::<Option<Vec<_>>>()?;
            states.sort();
            Match::State(states)
        }
        _ => return None,
    })
}

fn tracked(name: &str) -> Option<Tracked> {
    Some(match name {
        "INVALID" => Tracked::Invalid,
        "NEW" => Tracked::New,
        "RELATED" => Tracked::Related,
        "ESTABLISHED" => Tracked::Established,
        _ => return None,
    })
}

/// A number, decimal or hexadecimal, that is meant with all its bits.
fn mark(text: &str) -> Option<u32> {
    let (value, mask) = text.split_once('/').unwrap_or((text, "0xffffffff"));
    (number(mask)? == u32::MAX).then(|| number(value))?
}

fn number(text: &str) -> Option<u32> {
    match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

fn target(name: &str, words: &mut Words<'_>) -> Option<Target> {
    let plain = match name {
        "ACCEPT" => Some(Target::Accept),
        "DROP" => Some(Target::Drop),
        "RETURN" => Some(Target::Return),
        _ => None,
    };
    if plain.is_some() {
        return plain;
    }
    let flags = words.flags()?;
    let value = |name: &str| flags.iter().find(|(flag, _)| *flag == name).map(|(_, value)| *value);
    let only = |known: &[&str]| flags.iter().all(|(flag, _)| known.contains(flag));
    match name {
        "REDIRECT" if only(&["--to-ports", "--to-port"]) => {
            Some(Target::Redirect(value("--to-ports").or(value("--to-port"))?.parse().ok()?))
        }
        "DNAT" if only(&["--to-destination"]) => Some(Target::Dnat(value("--to-destination")?.parse().ok()?)),
        "TPROXY" if only(&["--on-port", "--on-ip", "--tproxy-mark"]) => {
            let anywhere = matches!(value("--on-ip"), None | Some("0.0.0.0" | "::"));
            let port = value("--on-port")?.parse().ok()?;
            let mark = mark(value("--tproxy-mark")?)?;
            anywhere.then_some(Target::TProxy { port, mark })
        }
        "MARK" if only(&["--set-mark", "--set-xmark"]) => {
            Some(Target::SetMark(mark(value("--set-mark").or(value("--set-xmark"))?)?))
        }
        "CONNMARK" if only(&["--save-mark", "--restore-mark", "--nfmask", "--ctmask"]) => {
            let whole = |name| value(name).is_none_or(|mask| number(mask) == Some(u32::MAX));
            let target = match (value("--save-mark"), value("--restore-mark")) {
                (Some(_), None) => Target::SaveMark,
                (None, Some(_)) => Target::RestoreMark,
                _ => return None,
            };
            (whole("--nfmask") && whole("--ctmask")).then_some(target)
        }
        "CT" if only(&["--zone"]) => Some(Target::Zone(value("--zone")?.parse().ok()?)),
        "NFLOG" if only(&["--nflog-prefix", "--nflog-group", "--nflog-size"]) => {
            let ours = value("--nflog-group")? == "1337" && value("--nflog-size")? == "20";
            ours.then(|| value("--nflog-prefix").map(|prefix| Target::Log(prefix.trim_matches('"').into())))?
        }
        _ if flags.is_empty() => Some(Target::Jump(name.into())),
        _ => None,
    }
}
