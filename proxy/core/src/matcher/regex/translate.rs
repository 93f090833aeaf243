//! From RE2's syntax to that of the `regex` crate.
//!
//! Envoy runs RE2 on bytes (Latin-1): `.` is one byte, and a character outside ASCII in an expression is the two or more
//! bytes of its UTF-8 form, even inside a class. So is it here.

use std::fmt::Write;
use std::iter::Peekable;
use std::str::Chars;

/// RE2 refuses to repeat more often.
const MAX_REPEAT: u32 = 1000;

/// Rewrites `re2` so that the `regex` crate reads it as RE2 would, or says what RE2 would not accept.
pub(super) fn translate(re2: &str) -> Result<String, String> {
    let bytes: String = re2.bytes().map(char::from).collect();
    let out = String::with_capacity(re2.len() + 16);
    let mut parser = Parser { rest: bytes.chars().peekable(), out, depth: 0 };
    parser.out.push_str("(?-u:");
    parser.run()?;
    if parser.depth > 0 {
        return Err(format!("missing ): {re2}"));
    }
    parser.out.push(')');
    Ok(parser.out)
}

struct Parser<'r> {
    rest: Peekable<Chars<'r>>,
    out: String,
    /// Groups that are open: what is around the translation must not be closed by it.
    depth: usize,
}

impl Parser<'_> {
    fn run(&mut self) -> Result<(), String> {
        while let Some(char) = self.rest.next() {
            match char {
                '\\' => self.escape()?,
                '[' => self.class()?,
                '(' => self.group()?,
                '*' | '+' | '?' => self.repetition(char)?,
                '{' => match self.counted()? {
                    Some(counted) => {
                        self.out.push_str(&counted);
                        self.after_repetition()?;
                    }
                    None => self.out.push_str(r"\{"),
                },
                '}' => self.out.push_str(r"\}"),
                ']' => self.out.push_str(r"\]"),
                ')' => {
                    self.depth = self.depth.checked_sub(1).ok_or_else(|| "unexpected )".to_owned())?;
                    self.out.push(char);
                }
                '^' | '$' | '.' | '|' => self.out.push(char),
                other => push_literal(&mut self.out, other),
            }
        }
        Ok(())
    }

    fn repetition(&mut self, operator: char) -> Result<(), String> {
        self.out.push(operator);
        self.after_repetition()
    }

    /// A repetition may be followed by `?` (lazy), but not by another repetition.
    fn after_repetition(&mut self) -> Result<(), String> {
        if self.rest.peek() == Some(&'?') {
            self.rest.next();
            self.out.push('?');
        }
        match self.rest.peek().copied() {
            Some(next @ ('*' | '+' | '?')) => {
                Err(format!("bad repetition operator: {next} after a repetition"))
            }
            Some('{') if parse_count(self.rest.clone().skip(1))?.is_some() => {
                Err("bad repetition operator: {} after a repetition".to_owned())
            }
            _ => Ok(()),
        }
    }

    /// `{n}`, `{n,}` or `{n,m}` after the `{`; `None` if RE2 takes the brace literally.
    fn counted(&mut self) -> Result<Option<String>, String> {
        let Some((text, length)) = parse_count(self.rest.clone())? else { return Ok(None) };
        for _ in 0..length {
            self.rest.next();
        }
        Ok(Some(text))
    }

    fn group(&mut self) -> Result<(), String> {
        self.out.push('(');
        self.depth += 1;
        if self.rest.peek() != Some(&'?') {
            return Ok(());
        }
        self.rest.next();
        self.out.push('?');
        if matches!(self.rest.peek(), Some('P' | '<')) {
            return self.group_name();
        }
        for char in self.rest.by_ref() {
            match char {
                'i' | 'm' | 's' | 'U' | '-' => self.out.push(char),
                ':' | ')' => {
                    self.out.push(char);
                    self.depth -= usize::from(char == ')');
                    return Ok(());
                }
                other => return Err(format!("invalid perl operator: (?{other}")),
            }
        }
        Err("missing ): the expression ends inside a group".to_owned())
    }

    /// `P<name>` or `<name>`.
    fn group_name(&mut self) -> Result<(), String> {
        let invalid = || "invalid named capture group".to_owned();
        if self.rest.peek() == Some(&'P') {
            self.rest.next();
        }
        if self.rest.next() != Some('<') {
            return Err(invalid());
        }
        self.out.push_str("P<");
        for char in self.rest.by_ref() {
            match char {
                '>' => {
                    self.out.push('>');
                    return Ok(());
                }
                _ if char.is_ascii_alphanumeric() || char == '_' => self.out.push(char),
                _ => return Err(invalid()),
            }
        }
        Err(invalid())
    }

    fn escape(&mut self) -> Result<(), String> {
        let Some(char) = self.rest.next() else { return Err(r"trailing \".to_owned()) };
        match char {
            'd' => self.out.push_str("[0-9]"),
            'D' => self.out.push_str("[^0-9]"),
            's' => self.out.push_str(r"[\t\n\f\r ]"),
            'S' => self.out.push_str(r"[^\t\n\f\r ]"),
            'w' => self.out.push_str("[0-9A-Za-z_]"),
            'W' => self.out.push_str("[^0-9A-Za-z_]"),
            'b' => self.out.push_str(r"\b"),
            'B' => self.out.push_str(r"\B"),
            'A' | 'z' => {
                self.out.push('\\');
                self.out.push(char);
            }
            'C' => return Err(r"\C (any byte) is not available".to_owned()),
            'Q' => self.quoted(),
            'p' | 'P' => {
                let property = self.property(char)?;
                let _ = write!(self.out, "(?u:{property})");
            }
            other => {
                let literal = self.escaped_char(other)?;
                push_literal(&mut self.out, literal);
            }
        }
        Ok(())
    }

    /// `\Q..\E`: everything up to `\E` or the end is literal.
    fn quoted(&mut self) {
        while let Some(char) = self.rest.next() {
            if char == '\\' && self.rest.peek() == Some(&'E') {
                self.rest.next();
                return;
            }
            push_literal(&mut self.out, char);
        }
    }

    /// A Unicode property after `\p` or `\P`, `\p{^Name}` included.
    fn property(&mut self, mut letter: char) -> Result<String, String> {
        let mut name = String::new();
        match self.rest.next() {
            Some('{') => {
                if self.rest.peek() == Some(&'^') {
                    self.rest.next();
                    letter = if letter == 'p' { 'P' } else { 'p' };
                }
                loop {
                    match self.rest.next() {
                        Some('}') => break,
                        Some(char) if char.is_ascii_alphanumeric() || char == '_' => name.push(char),
                        _ => return Err("invalid character class range: malformed property".to_owned()),
                    }
                }
            }
            Some(char) if char.is_ascii_alphabetic() => name.push(char),
            _ => return Err("invalid character class range: malformed property".to_owned()),
        }
        Ok(format!(r"\{letter}{{{name}}}"))
    }

    /// The character that an escape denotes, the backslash and `char` being read.
    fn escaped_char(&mut self, char: char) -> Result<char, String> {
        Ok(match char {
            'a' => '\x07',
            'f' => '\x0c',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'v' => '\x0b',
            'x' => return self.hex(),
            '0' => return self.octal(0, 2),
            '1'..='7' if matches!(self.rest.peek(), Some('0'..='7')) => {
                return self.octal(u32::from(char) - u32::from('0'), 2);
            }
            '_' => '_',
            other if other.is_ascii_punctuation() || other == ' ' => other,
            other => return Err(format!(r"invalid escape sequence: \{other}")),
        })
    }

    fn octal(&mut self, first: u32, more: usize) -> Result<char, String> {
        let mut value = first;
        for _ in 0..more {
            let Some(digit) = self.rest.peek().and_then(|char| char.to_digit(8)) else { break };
            self.rest.next();
            value = value * 8 + digit;
        }
        u8::try_from(value).map(char::from).map_err(|_| "invalid escape sequence: octal".to_owned())
    }

    fn hex(&mut self) -> Result<char, String> {
        let invalid = || r"invalid escape sequence: \x".to_owned();
        let mut value = 0u32;
        if self.rest.peek() == Some(&'{') {
            self.rest.next();
            let mut digits = 0;
            loop {
                match self.rest.next() {
                    Some('}') if digits > 0 => break,
                    Some(char) if digits < 8 => {
                        value = value.wrapping_mul(16) + char.to_digit(16).ok_or_else(invalid)?;
                        digits += 1;
                    }
                    _ => return Err(invalid()),
                }
            }
        } else {
            for _ in 0..2 {
                let digit = self.rest.next().and_then(|char| char.to_digit(16)).ok_or_else(invalid)?;
                value = value * 16 + digit;
            }
        }
        u8::try_from(value).map(char::from).map_err(|_| invalid())
    }

    fn class(&mut self) -> Result<(), String> {
        self.out.push('[');
        if self.rest.peek() == Some(&'^') {
            self.rest.next();
            self.out.push('^');
        }
        let mut first = true;
        loop {
            let Some(char) = self.rest.next() else { return Err("missing ]".to_owned()) };
            if char == ']' && !first {
                self.out.push(']');
                return Ok(());
            }
            first = false;
            if char == '[' && self.rest.peek() == Some(&':') && self.posix_class()? {
                continue;
            }
            if char == '\\' && self.class_escape()? {
                continue;
            }
            let low = self.class_char(char)?;
            self.range_from(low)?;
        }
    }

    /// Writes `low` or the range that starts with it.
    fn range_from(&mut self, low: char) -> Result<(), String> {
        let mut ahead = self.rest.clone();
        let is_range = ahead.next() == Some('-') && ahead.next().is_some_and(|char| char != ']');
        push_literal(&mut self.out, low);
        if !is_range {
            return Ok(());
        }
        self.rest.next();
        let Some(char) = self.rest.next() else { return Err("missing ]".to_owned()) };
        let high = self.class_char(char)?;
        if high < low {
            return Err(format!("invalid character class range: {low}-{high}"));
        }
        self.out.push('-');
        push_literal(&mut self.out, high);
        Ok(())
    }

    fn class_char(&mut self, char: char) -> Result<char, String> {
        if char != '\\' {
            return Ok(char);
        }
        let Some(escaped) = self.rest.next() else { return Err("missing ]".to_owned()) };
        self.escaped_char(escaped)
    }

    /// `\d`, `\p{..}` and the like inside a class; `false` (nothing read) if it is an ordinary character.
    fn class_escape(&mut self) -> Result<bool, String> {
        let class = match self.rest.peek() {
            Some('d') => "0-9",
            Some('D') => "[^0-9]",
            Some('s') => r"\t\n\f\r\x20",
            Some('S') => r"[^\t\n\f\r\x20]",
            Some('w') => "0-9A-Za-z_",
            Some('W') => "[^0-9A-Za-z_]",
            Some('p' | 'P') => {
                return Err("Unicode properties inside a class are not available".to_owned());
            }
            _ => return Ok(false),
        };
        self.rest.next();
        self.out.push_str(class);
        Ok(true)
    }

    /// `[:alpha:]` and `[:^alpha:]`; `false` (nothing read) if the bracket is an ordinary character.
    fn posix_class(&mut self) -> Result<bool, String> {
        const NAMES: &[&str] = &[
            "alnum", "alpha", "ascii", "blank", "cntrl", "digit", "graph", "lower", "print", "punct",
            "space", "upper", "word", "xdigit",
        ];
        let ahead: String = self.rest.clone().skip(1).take_while(|char| *char != ']').take(16).collect();
        let Some(name) = ahead.strip_suffix(':') else { return Ok(false) };
        if !NAMES.contains(&name.strip_prefix('^').unwrap_or(name)) {
            return Err(format!("invalid character class range: [:{name}:]"));
        }
        for _ in 0..name.len() + 3 {
            self.rest.next();
        }
        let _ = write!(self.out, "[:{name}:]");
        Ok(true)
    }
}

/// Reads `n}`, `n,}` or `n,m}`: the whole operator and the number of characters read.
fn parse_count(rest: impl Iterator<Item = char>) -> Result<Option<(String, usize)>, String> {
    let mut inside: String = rest.take(12).collect();
    let Some(end) = inside.find('}') else { return Ok(None) };
    inside.truncate(end);
    let (low, high) = match inside.split_once(',') {
        Some((low, high)) => (low, Some(high)),
        None => (inside.as_str(), None),
    };
    let number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if low.is_empty() || !number(low) || !high.is_none_or(number) {
        return Ok(None);
    }
    let repeat = |text: &str| text.parse::<u32>().ok().filter(|count| *count <= MAX_REPEAT);
    let too_many = || format!("invalid repetition size: {{{inside}}}");
    let at_least = repeat(low).ok_or_else(too_many)?;
    if let Some(high) = high.filter(|high| !high.is_empty())
        && repeat(high).ok_or_else(too_many)? < at_least
    {
        return Err(too_many());
    }
    Ok(Some((format!("{{{inside}}}"), inside.chars().count() + 1)))
}

fn push_literal(out: &mut String, char: char) {
    if char.is_ascii_alphanumeric() {
        out.push(char);
    } else {
        let _ = write!(out, r"\x{:02X}", u32::from(char));
    }
}
