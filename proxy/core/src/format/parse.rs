//! The grammar of format strings: text, `%%`, and `%COMMAND%`, `%COMMAND(parameter)%`, `%COMMAND(parameter):length%`.

use super::{Op, Operator, Part};

/// One command as it was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Command<'a> {
    pub(super) name: &'a str,
    /// What stands between the parentheses; empty without them.
    pub(super) parameter: &'a str,
    pub(super) max_length: Option<usize>,
}

/// Splits `text` into parts. Errors name the byte at which the command starts.
pub(super) fn parse(text: &str) -> Result<Vec<Part>, String> {
    let mut parts = Vec::new();
    let mut at = 0;
    while let Some(rest) = text.get(at..).filter(|rest| !rest.is_empty()) {
        let plain = rest.find('%').unwrap_or(rest.len());
        if plain > 0 {
            push_text(&mut parts, rest.get(..plain).unwrap_or_default());
            at += plain;
            continue;
        }
        if rest.starts_with("%%") {
            push_text(&mut parts, "%");
            at += 2;
            continue;
        }
        let (command, used) = command(rest)
            .ok_or_else(|| format!("incorrect format '{text}': no valid command at position {at}"))?;
        let operator = Operator::new(command).map_err(|reason| format!("{reason} (at position {at})"))?;
        match operator {
            Operator { op: Op::Constant(value), .. } => push_text(&mut parts, &value),
            operator => parts.push(Part::Operator(operator)),
        }
        at += used;
    }
    Ok(parts)
}

fn push_text(parts: &mut Vec<Part>, text: &str) {
    match parts.last_mut() {
        Some(Part::Text(last)) => last.push_str(text),
        Some(Part::Operator(_)) | None => parts.push(Part::Text(text.to_owned())),
    }
}

/// The command that `rest` starts with, and its length in bytes.
///
/// The parameter ends at the first `)` after which the command can end, so `%START_TIME(%Y (%d))%` works.
fn command(rest: &str) -> Option<(Command<'_>, usize)> {
    let body = rest.strip_prefix('%')?;
    let is_name = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    let name_length = body.find(|c| !is_name(c)).filter(|length| *length > 0)?;
    let (name, after) = body.split_at_checked(name_length)?;
    let total = |tail: &str| rest.len() - tail.len();
    let Some(inside) = after.strip_prefix('(') else {
        let (max_length, tail) = end(after)?;
        return Some((Command { name, parameter: "", max_length }, total(tail)));
    };
    let limit = inside.find('\n').unwrap_or(inside.len());
    for (close, _) in inside.match_indices(')').take_while(|(close, _)| *close < limit) {
        let Some((max_length, tail)) = inside.get(close + 1..).and_then(end) else { continue };
        let parameter = inside.get(..close)?;
        return Some((Command { name, parameter, max_length }, total(tail)));
    }
    None
}

/// The end of a command: an optional `:length` and `%`. Gives the length and what follows.
fn end(after: &str) -> Option<(Option<usize>, &str)> {
    if let Some(tail) = after.strip_prefix('%') {
        return Some((None, tail));
    }
    let digits = after.strip_prefix(':')?;
    let (number, tail) = digits.split_once('%')?;
    if !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some((Some(number.parse().ok()?), tail))
}
