//! The values of literals.

use xds_api::google::api::expr::v1alpha1::constant::ConstantKind;

/// The value of a number without its sign.
pub(super) fn number(text: &str, is_negative: bool) -> Result<ConstantKind, String> {
    let wrong = || format!("{text} is no number of 64 bits");
    let signed = if is_negative { format!("-{text}") } else { text.to_owned() };
    let hex = |text: &str| text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")).map(str::to_owned);
    if let Some(digits) = text.strip_suffix(['u', 'U']) {
        let value = match hex(digits) {
            Some(hex) => u64::from_str_radix(&hex, 16),
            None => digits.parse(),
        };
        let value = value.ok().filter(|_| !is_negative).ok_or_else(wrong)?;
        return Ok(ConstantKind::Uint64Value(value));
    }
    if let Some(hex) = hex(text) {
        let signed = if is_negative { format!("-{hex}") } else { hex };
        return i64::from_str_radix(&signed, 16).map(ConstantKind::Int64Value).map_err(|_| wrong());
    }
    if text.contains(['.', 'e', 'E']) {
        return signed.parse().map(ConstantKind::DoubleValue).map_err(|_| wrong());
    }
    signed.parse().map(ConstantKind::Int64Value).map_err(|_| wrong())
}

/// The value of a string, or of bytes, with its prefixes and quotes.
pub(super) fn text(written: &str) -> Result<ConstantKind, String> {
    let quoted = written.trim_start_matches(['r', 'R', 'b', 'B']);
    let prefix = written[..written.len() - quoted.len()].to_ascii_lowercase();
    let is_bytes = prefix.contains('b');
    let quotes =
        if quoted.len() >= 6 && (quoted.starts_with("\"\"\"") || quoted.starts_with("'''")) { 3 } else { 1 };
    let inner = &quoted[quotes..quoted.len() - quotes];
    let bytes = if prefix.contains('r') { inner.as_bytes().to_vec() } else { unescape(inner, is_bytes)? };
    if is_bytes {
        return Ok(ConstantKind::BytesValue(bytes));
    }
    let text = String::from_utf8(bytes).map_err(|_| format!("{written} is no text"))?;
    Ok(ConstantKind::StringValue(text))
}

/// Escapes are those of the language: of a letter, of octets (of code points in strings), of code points.
fn unescape(text: &str, is_bytes: bool) -> Result<Vec<u8>, String> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.extend_from_slice(&rest.as_bytes()[..at]);
        let escape = &rest[at + 1..];
        let wrong = || format!("no such escape: \\{}", escape.chars().next().unwrap_or_default());
        let plain = match escape.as_bytes().first().ok_or_else(wrong)? {
            b'a' => Some(0x07),
            b'b' => Some(0x08),
            b'f' => Some(0x0c),
            b'n' => Some(b'\n'),
            b'r' => Some(b'\r'),
            b't' => Some(b'\t'),
            b'v' => Some(0x0b),
            sign @ (b'\\' | b'?' | b'"' | b'\'' | b'`') => Some(*sign),
            _ => None,
        };
        if let Some(byte) = plain {
            out.push(byte);
            rest = &escape[1..];
            continue;
        }
        let (skip, length, radix) = match escape.as_bytes()[0] {
            b'x' | b'X' => (1, 2, 16),
            b'u' if !is_bytes => (1, 4, 16),
            b'U' if !is_bytes => (1, 8, 16),
            b'0'..=b'3' => (0, 3, 8),
            _ => return Err(wrong()),
        };
        let digits = escape.get(skip..skip + length).ok_or_else(wrong)?;
        // (A sign would be read as part of the number.)
        let all_digits = digits.chars().all(|digit| digit.is_digit(radix));
        let code = u32::from_str_radix(digits, radix).ok().filter(|_| all_digits).ok_or_else(wrong)?;
        match u8::try_from(code).ok().filter(|_| is_bytes) {
            Some(byte) => out.push(byte),
            None => {
                let letter = char::from_u32(code).ok_or_else(wrong)?;
                out.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes());
            }
        }
        rest = &escape[skip + length..];
    }
    out.extend_from_slice(rest.as_bytes());
    Ok(out)
}
