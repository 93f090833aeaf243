//! JSON as protobuf's C++ parser takes it: besides RFC 8259 it allows trailing commas, single quotes, bare keys and raw
//! control characters in strings. Confirmed with Envoy 1.40, which reads `.json` files so.

use std::borrow::Cow;

use crate::{
    error::Error,
    tree::{Entry, MAX_DEPTH, Node, Position, Value},
};

/// The tree of a JSON text. Keys stay as often as they occur: the fields that they name are merged.
pub(crate) fn parse(text: &str) -> Result<Node<'_>, Error> {
    let mut parser = Parser { text, at: 0, line: 1, line_start: 0 };
    let node = parser.value(0)?;
    parser.skip_space();
    match parser.peek() {
        None => Ok(node),
        Some(_) => Err(parser.error("extraneous characters after end of JSON object")),
    }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    line: usize,
    line_start: usize,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    /// The rest of the text; empty if a byte offset were inside a character (it never is: it stops at ASCII only).
    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn position(&self) -> Position {
        Position::new(self.line, self.at - self.line_start + 1)
    }

    fn error(&self, reason: impl Into<String>) -> Error {
        self.position().error(reason)
    }

    fn unexpected(&self, expected: &str) -> Error {
        match self.rest().chars().next() {
            Some(c) => self.error(format!("unexpected character: '{c}'; expected {expected}")),
            None => self.error(format!("unexpected end of the text; expected {expected}")),
        }
    }

    fn new_line(&mut self) {
        self.line += 1;
        self.line_start = self.at + 1;
    }

    fn skip_space(&mut self) {
        while let Some(b' ' | b'\t' | b'\r' | b'\n') = self.peek() {
            if self.peek() == Some(b'\n') {
                self.new_line();
            }
            self.at += 1;
        }
    }

    fn eat(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn value(&mut self, depth: usize) -> Result<Node<'a>, Error> {
        self.skip_space();
        let at = self.position();
        let value = match self.peek() {
            Some(b'{' | b'[') if depth >= MAX_DEPTH => return Err(self.error("nested too deeply")),
            Some(b'{') => self.object(depth + 1)?,
            Some(b'[') => self.array(depth + 1)?,
            Some(quote @ (b'"' | b'\'')) => Value::String(self.string(quote)?),
            Some(b'-' | b'0'..=b'9') => Value::Number(Cow::Borrowed(self.number()?)),
            Some(b't') => self.word("true", Value::Bool(true))?,
            Some(b'f') => self.word("false", Value::Bool(false))?,
            Some(b'n') => self.word("null", Value::Null)?,
            _ => return Err(self.unexpected("a value")),
        };
        Ok(Node { value, at })
    }

    fn object(&mut self, depth: usize) -> Result<Value<'a>, Error> {
        self.at += 1;
        let mut entries = Vec::new();
        loop {
            self.skip_space();
            if self.eat(b'}') {
                return Ok(Value::Map(entries));
            }
            let at = self.position();
            let key = self.key()?;
            self.skip_space();
            if !self.eat(b':') {
                return Err(self.unexpected("':'"));
            }
            entries.push(Entry { key, at, node: self.value(depth)? });
            self.separator(b'}')?;
        }
    }

    fn array(&mut self, depth: usize) -> Result<Value<'a>, Error> {
        self.at += 1;
        let mut nodes = Vec::new();
        loop {
            self.skip_space();
            if self.eat(b']') {
                return Ok(Value::List(nodes));
            }
            nodes.push(self.value(depth)?);
            self.separator(b']')?;
        }
    }

    /// A comma, or the end that follows (and is left for the caller).
    fn separator(&mut self, end: u8) -> Result<(), Error> {
        self.skip_space();
        if self.eat(b',') || self.peek() == Some(end) {
            Ok(())
        } else {
            Err(self.unexpected(if end == b'}' { "',' or '}'" } else { "',' or ']'" }))
        }
    }

    fn key(&mut self) -> Result<Cow<'a, str>, Error> {
        match self.peek() {
            Some(quote @ (b'"' | b'\'')) => self.string(quote),
            Some(b'a'..=b'z' | b'A'..=b'Z' | b'_' | b'$') => {
                let rest = self.rest();
                let bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '$';
                let word = rest.split(|c| !bare(c)).next().unwrap_or_default();
                self.at += word.len();
                Ok(Cow::Borrowed(word))
            }
            _ => Err(self.unexpected("a key")),
        }
    }

    fn word(&mut self, word: &str, value: Value<'a>) -> Result<Value<'a>, Error> {
        let rest = self.rest();
        let next = rest.as_bytes().get(word.len());
        if rest.starts_with(word) && !next.is_some_and(|&c| c.is_ascii_alphanumeric() || c == b'_') {
            self.at += word.len();
            Ok(value)
        } else {
            Err(self.unexpected("a value"))
        }
    }

    fn number(&mut self) -> Result<&'a str, Error> {
        let start = self.at;
        self.eat(b'-');
        let leading_zero = self.peek() == Some(b'0');
        let digits = self.digits();
        if digits == 0 {
            return Err(self.unexpected("a digit"));
        }
        if leading_zero && digits > 1 {
            return Err(self.error("number cannot have extraneous leading zero"));
        }
        if self.eat(b'.') && self.digits() == 0 {
            return Err(self.error("number cannot have trailing period"));
        }
        if self.eat(b'e') || self.eat(b'E') {
            let _sign = self.eat(b'+') || self.eat(b'-');
            if self.digits() == 0 {
                return Err(self.unexpected("a digit of the exponent"));
            }
        }
        match self.peek() {
            Some(b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' | b'_' | b'.') => {
                Err(self.unexpected("the end of a number"))
            }
            _ => Ok(self.text.get(start..self.at).unwrap_or_default()),
        }
    }

    fn digits(&mut self) -> usize {
        let start = self.at;
        while let Some(b'0'..=b'9') = self.peek() {
            self.at += 1;
        }
        self.at - start
    }

    fn string(&mut self, quote: u8) -> Result<Cow<'a, str>, Error> {
        self.at += 1;
        let mut owned = String::new();
        let mut start = self.at;
        loop {
            let piece = start..self.at;
            match self.peek() {
                None => return Err(self.unexpected("the end of a string")),
                Some(b'\\') => {
                    owned.push_str(self.text.get(piece).unwrap_or_default());
                    self.at += 1;
                    owned.push(self.escape()?);
                    start = self.at;
                    continue;
                }
                Some(b'\n') => self.new_line(),
                Some(byte) if byte == quote => {
                    self.at += 1;
                    let piece = self.text.get(piece).unwrap_or_default();
                    return Ok(if owned.is_empty() {
                        Cow::Borrowed(piece)
                    } else {
                        Cow::Owned(owned + piece)
                    });
                }
                Some(_) => {}
            }
            self.at += 1;
        }
    }

    /// What follows a backslash.
    fn escape(&mut self) -> Result<char, Error> {
        let Some(byte) = self.peek() else { return Err(self.unexpected("an escape")) };
        let c = match byte {
            b'"' | b'\\' | b'/' | b'\'' => char::from(byte),
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => return self.unicode(),
            _ => {
                return Err(self
                    .error(format!("invalid escape char: '{}'", self.rest().chars().next().unwrap_or(' '))));
            }
        };
        self.at += 1;
        Ok(c)
    }

    /// `uXXXX`, or two of them that form a surrogate pair.
    fn unicode(&mut self) -> Result<char, Error> {
        let high = self.hex()?;
        let code = match high {
            0xd800..0xdc00 => {
                if !self.eat(b'\\') {
                    return Err(self.unexpected("'\\u'"));
                }
                let low = self.hex()?;
                if !(0xdc00..0xe000).contains(&low) {
                    return Err(self.error("invalid low surrogate"));
                }
                0x1_0000 + (high - 0xd800) * 0x400 + (low - 0xdc00)
            }
            _ => high,
        };
        char::from_u32(code).ok_or_else(|| self.error("invalid surrogate"))
    }

    fn hex(&mut self) -> Result<u32, Error> {
        if !self.eat(b'u') {
            return Err(self.unexpected("'\\u'"));
        }
        let digits = self.rest().get(..4).filter(|digits| digits.bytes().all(|c| c.is_ascii_hexdigit()));
        let code = digits.and_then(|digits| u32::from_str_radix(digits, 16).ok());
        let code = code.ok_or_else(|| self.error("invalid Unicode escape"))?;
        self.at += 4;
        Ok(code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        match parse(text) {
            Ok(node) => show(&node.value),
            Err(error) => format!("! {error}"),
        }
    }

    fn show(value: &Value<'_>) -> String {
        match value {
            Value::List(nodes) => {
                format!("[{}]", nodes.iter().map(|n| show(&n.value)).collect::<Vec<_>>().join(","))
            }
            Value::Map(entries) => {
                let entries: Vec<_> =
                    entries.iter().map(|e| format!("{}:{}", e.key, show(&e.node.value))).collect();
                format!("{{{}}}", entries.join(","))
            }
            Value::Number(number) => number.to_string(),
            Value::String(string) => format!("{string:?}"),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn what_envoy_accepts() {
        for (text, expected) in [
            (r#"{"a":1,"b":[true,false,null],}"#, "{a:1,b:[Bool(true),Bool(false),Null]}"),
            ("{'a':'b',c_1:2}", r#"{a:"b",c_1:2}"#),
            ("[1,-1.5e3,0.1,]", "[1,-1.5e3,0.1]"),
            (r#""\u00e9\ud83d\ude00\n""#, r#""é😀\n""#),
            ("\"a\tb\nc\"", r#""a\tb\nc""#),
            (" {} ", "{}"),
            (r#"{"a":1,"a":2}"#, "{a:1,a:2}"),
        ] {
            assert_eq!(shown(text), expected, "{text}");
        }
    }

    #[test]
    fn what_envoy_rejects() {
        for (text, expected) in [
            ("", "! 1:1: unexpected end of the text; expected a value"),
            ("{}\n x", "! 2:2: extraneous characters after end of JSON object"),
            ("{/*x*/}", "! 1:2: unexpected character: '/'; expected a key"),
            ("[01]", "! 1:4: number cannot have extraneous leading zero"),
            ("[5.]", "! 1:4: number cannot have trailing period"),
            ("[+1]", "! 1:2: unexpected character: '+'; expected a value"),
            ("[.5]", "! 1:2: unexpected character: '.'; expected a value"),
            ("[NaN]", "! 1:2: unexpected character: 'N'; expected a value"),
            ("[1 2]", "! 1:4: unexpected character: '2'; expected ',' or ']'"),
            ("[nullx]", "! 1:2: unexpected character: 'n'; expected a value"),
            (r#""\q""#, "! 1:3: invalid escape char: 'q'"),
            (r#""\ud800""#, "! 1:8: unexpected character: '\"'; expected '\\u'"),
            (r#""\udc00""#, "! 1:8: invalid surrogate"),
            (r#""\u12é""#, "! 1:4: invalid Unicode escape"),
            ("\"abc", "! 1:5: unexpected end of the text; expected the end of a string"),
            ("[,]", "! 1:2: unexpected character: ','; expected a value"),
            ("\u{feff}{}", "! 1:1: unexpected character: '\u{feff}'; expected a value"),
        ] {
            assert_eq!(shown(text), expected, "{text}");
        }
    }

    #[test]
    fn depth_is_bounded() {
        let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        assert!(parse(&nested(MAX_DEPTH)).is_ok());
        assert!(parse(&nested(MAX_DEPTH + 1)).is_err());
        assert!(parse(&"[".repeat(1_000_000)).is_err());
    }
}
