//! How many instructions RE2's program for an expression has: what Envoy's `re2.max_program_size` limits.
//!
//! A lower bound, found by measuring Envoy 1.40 (a limit of 0 makes it report every size): one instruction for each byte or
//! range of bytes (both cases of a letter are one), two for a group, one for each `+`, `?` and word boundary, and four
//! around it all. What alternatives have in common at their start counts once.

use regex_syntax::hir::{Class, ClassBytesRange, Hir, HirKind, Look, Repetition};

/// Larger programs are not counted any further.
const ENOUGH: u64 = 1 << 32;

/// The size of the program for an expression in the syntax of the `regex` crate; 0 if it is not one.
pub(super) fn estimate(translated: &str) -> u64 {
    let parsed = regex_syntax::ParserBuilder::new().utf8(false).build().parse(translated);
    let Ok(hir) = parsed else { return 0 };
    // Without an anchor, a loop that skips what precedes the match comes first.
    let frame = if starts_anchored(&hir) { 3 } else { 4 };
    size(&hir).saturating_add(frame)
}

fn starts_anchored(hir: &Hir) -> bool {
    match hir.kind() {
        HirKind::Look(Look::Start) => true,
        HirKind::Concat(parts) => parts.first().is_some_and(starts_anchored),
        _ => false,
    }
}

fn size(hir: &Hir) -> u64 {
    let size = match hir.kind() {
        HirKind::Empty => 0,
        HirKind::Literal(literal) => literal.0.len() as u64,
        HirKind::Class(Class::Bytes(class)) => ranges(class.ranges()),
        HirKind::Class(Class::Unicode(class)) => class.ranges().len().min(5) as u64,
        HirKind::Look(Look::Start | Look::End) => 0,
        HirKind::Look(_) => 1,
        HirKind::Repetition(repetition) => repeated(repetition),
        HirKind::Capture(capture) => size(&capture.sub).saturating_add(2),
        HirKind::Concat(parts) => parts.iter().fold(0, |sum: u64, part| sum.saturating_add(size(part))),
        HirKind::Alternation(parts) => alternatives(parts),
    };
    size.min(ENOUGH)
}

fn repeated(Repetition { min, max, sub, .. }: &Repetition) -> u64 {
    let once = size(sub);
    let (min, max) = (u64::from(*min), max.map(u64::from));
    match (min, max) {
        (0, None) => once,
        (_, None) => min.saturating_mul(once).saturating_add(1),
        (_, Some(max)) => max.saturating_mul(once).saturating_add(max - min.min(max)),
    }
}

/// Ranges of bytes, those of capital letters left out where the small ones are there.
fn ranges(ranges: &[ClassBytesRange]) -> u64 {
    let is_folded = |range: &&ClassBytesRange| {
        range.start().is_ascii_uppercase()
            && range.end().is_ascii_uppercase()
            && ranges.iter().any(|other| {
                other.start() <= range.start().to_ascii_lowercase()
                    && range.end().to_ascii_lowercase() <= other.end()
            })
    };
    (ranges.len() - ranges.iter().filter(is_folded).count()) as u64
}

fn alternatives(parts: &[Hir]) -> u64 {
    let mut sum = 0u64;
    let mut previous: &[u8] = b"";
    for part in parts {
        let start = leading_literal(part);
        let common = start.iter().zip(previous).take_while(|(a, b)| a == b).count();
        // Last bytes that differ become one class.
        let merged = usize::from(start.len() == common + 1 && previous.len() == common + 1);
        sum = sum.saturating_add(size(part).saturating_sub((common + merged) as u64));
        previous = start;
    }
    sum
}

fn leading_literal(hir: &Hir) -> &[u8] {
    match hir.kind() {
        HirKind::Literal(literal) => &literal.0,
        HirKind::Concat(parts) => parts.first().map(leading_literal).unwrap_or_default(),
        _ => b"",
    }
}
