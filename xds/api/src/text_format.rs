//! Protobuf's text format (`.pb_text` files), as a tree. It differs from JSON in more than looks: well-known types are
//! ordinary messages, maps are lists of entries, bytes are not base64 (see `Style::Text` of the reader).
//! Reference: <https://protobuf.dev/reference/protobuf/textformat-spec/>.

use std::borrow::Cow;

use crate::{
    error::Error,
    tree::{Entry, MAX_DEPTH, Node, Position, Value},
};

/// The tree of a text.
pub(crate) fn parse(text: &str) -> Result<Node<'_>, Error> {
    let mut parser = Parser { text, at: 0, line: 1, line_start: 0 };
    let entries = parser.fields(None, 0)?;
    Ok(Node { value: Value::Map(entries), at: Position::new(1, 1) })
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

    fn position(&self) -> Position {
        Position::new(self.line, self.at - self.line_start + 1)
    }

    fn unexpected(&self, expected: &str) -> Error {
        let rest = self.text.get(self.at..).unwrap_or_default();
        let found = rest.chars().next().map_or("the end of the text".to_owned(), |c| format!("'{c}'"));
        self.position().error(format!("expected {expected}, found {found}"))
    }

    /// Skips white space and comments.
    fn skip_space(&mut self) {
        while let Some(byte) = self.peek() {
            match byte {
                b'\n' => {
                    self.line += 1;
                    self.line_start = self.at + 1;
                }
                b' ' | b'\t' | b'\r' | 0x0b | 0x0c => {}
                b'#' => {
                    while self.peek().is_some_and(|byte| byte != b'\n') {
                        self.at += 1;
                    }
                    continue;
                }
                _ => return,
            }
            self.at += 1;
        }
    }

    fn eat(&mut self, byte: u8) -> bool {
        self.skip_space();
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn word(&mut self, part: impl Fn(u8) -> bool) -> &'a str {
        let start = self.at;
        while self.peek().is_some_and(&part) {
            self.at += 1;
        }
        self.text.get(start..self.at).unwrap_or_default()
    }

    /// The fields of a message up to `end`, or to the end of the text.
    fn fields(&mut self, end: Option<u8>, depth: usize) -> Result<Vec<Entry<'a>>, Error> {
        if depth > MAX_DEPTH {
            return Err(self.position().error("nested too deeply"));
        }
        let mut entries = Vec::new();
        loop {
            self.skip_space();
            match (self.peek(), end) {
                (None, None) => return Ok(entries),
                (Some(byte), Some(end)) if byte == end => {
                    self.at += 1;
                    return Ok(entries);
                }
                _ => {}
            }
            let at = self.position();
            let key = self.name()?;
            let colon = self.eat(b':');
            let node = self.value(depth, colon)?;
            entries.push(Entry { key, at, node });
            let _separator = self.eat(b',') || self.eat(b';');
        }
    }

    /// A field name, or the type URL of an expanded `Any` in brackets.
    fn name(&mut self) -> Result<Cow<'a, str>, Error> {
        let start = self.at;
        if self.eat(b'[') {
            let part = |c: u8| c.is_ascii_alphanumeric() || b"._/-%~!$&()*+,;=:".contains(&c);
            if self.word(part).is_empty() || !self.eat(b']') {
                return Err(self.unexpected("a type URL in brackets"));
            }
            return Ok(Cow::Borrowed(self.text.get(start..self.at).unwrap_or_default()));
        }
        match self.word(|c| c.is_ascii_alphanumeric() || c == b'_') {
            "" => Err(self.unexpected("a field name")),
            name => Ok(Cow::Borrowed(name)),
        }
    }

    fn value(&mut self, depth: usize, colon: bool) -> Result<Node<'a>, Error> {
        self.skip_space();
        let at = self.position();
        let value = match self.peek() {
            Some(open @ (b'{' | b'<')) => {
                self.at += 1;
                Value::Map(self.fields(Some(if open == b'{' { b'}' } else { b'>' }), depth + 1)?)
            }
            Some(b'[') => {
                self.at += 1;
                Value::List(self.list(depth + 1)?)
            }
            _ if !colon => return Err(self.unexpected("':' or a message")),
            Some(b'"' | b'\'') => Value::Bytes(self.string()?),
            _ => self.plain()?,
        };
        Ok(Node { value, at })
    }

    fn list(&mut self, depth: usize) -> Result<Vec<Node<'a>>, Error> {
        if depth > MAX_DEPTH {
            return Err(self.position().error("nested too deeply"));
        }
        let mut nodes = Vec::new();
        if self.eat(b']') {
            return Ok(nodes);
        }
        loop {
            nodes.push(self.value(depth, true)?);
            if self.eat(b']') {
                return Ok(nodes);
            }
            if !self.eat(b',') {
                return Err(self.unexpected("',' or ']'"));
            }
        }
    }

    /// A number, or a word: an enum value or a boolean.
    fn plain(&mut self) -> Result<Value<'a>, Error> {
        let negative = self.eat(b'-');
        self.skip_space();
        let start = self.at;
        if self.peek().is_some_and(|c| c.is_ascii_digit() || c == b'.') {
            while let Some(c) = self.peek() {
                let exponent_sign =
                    matches!(c, b'+' | b'-') && self.text.as_bytes()[..self.at].ends_with(b"e");
                if !(c.is_ascii_alphanumeric() || c == b'.' || exponent_sign) {
                    break;
                }
                self.at += 1;
            }
            let text = self.text.get(start..self.at).unwrap_or_default();
            return number(text, negative)
                .ok_or_else(|| self.position().error(format!("not a number: '{text}'")));
        }
        let word = self.word(|c| c.is_ascii_alphanumeric() || c == b'_');
        let sign = if negative { -1.0 } else { 1.0 };
        match word.to_ascii_lowercase().as_str() {
            "" => Err(self.unexpected("a value")),
            "inf" | "infinity" => Ok(Value::Double(f64::INFINITY * sign)),
            "nan" => Ok(Value::Double(f64::NAN)),
            _ if negative => Err(self.unexpected("a number")),
            "true" => Ok(Value::Bool(true)),
            "false" => Ok(Value::Bool(false)),
            _ => Ok(Value::String(Cow::Borrowed(word))),
        }
    }

    /// One string, or several that follow each other and mean one.
    fn string(&mut self) -> Result<Vec<u8>, Error> {
        let mut out = Vec::new();
        while let Some(quote @ (b'"' | b'\'')) = self.peek() {
            self.at += 1;
            loop {
                match self.peek() {
                    None | Some(b'\n') => return Err(self.unexpected("the end of a string")),
                    Some(b'\\') => {
                        self.at += 1;
                        self.escape(&mut out)?;
                    }
                    Some(byte) => {
                        self.at += 1;
                        if byte == quote {
                            break;
                        }
                        out.push(byte);
                    }
                }
            }
            self.skip_space();
        }
        Ok(out)
    }

    fn escape(&mut self, out: &mut Vec<u8>) -> Result<(), Error> {
        let Some(byte) = self.peek() else { return Err(self.unexpected("an escape")) };
        let simple = match byte {
            b'a' => 7,
            b'b' => 8,
            b'f' => 12,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'v' => 11,
            b'\\' | b'\'' | b'"' | b'?' => byte,
            b'0'..=b'7' => return self.code(out, 8, 3),
            b'x' | b'X' => {
                self.at += 1;
                return self.code(out, 16, 2);
            }
            b'u' | b'U' => {
                self.at += 1;
                let digits = if byte == b'u' { 4 } else { 8 };
                let code = self.digits(16, digits).and_then(char::from_u32);
                let c = code.ok_or_else(|| self.unexpected("a Unicode code point"))?;
                out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                return Ok(());
            }
            _ => return Err(self.unexpected("an escape")),
        };
        self.at += 1;
        out.push(simple);
        Ok(())
    }

    /// A byte in up to `most` digits.
    fn code(&mut self, out: &mut Vec<u8>, radix: u32, most: usize) -> Result<(), Error> {
        let code = self.digits(radix, most).and_then(|code| u8::try_from(code).ok());
        out.push(code.ok_or_else(|| self.unexpected("the code of a byte"))?);
        Ok(())
    }

    fn digits(&mut self, radix: u32, most: usize) -> Option<u32> {
        let start = self.at;
        while self.at - start < most && self.peek().is_some_and(|c| char::from(c).is_digit(radix)) {
            self.at += 1;
        }
        u32::from_str_radix(self.text.get(start..self.at)?, radix).ok()
    }
}

/// A number without its sign: decimal, octal, hexadecimal, or with a fraction, an exponent or the suffix `f`.
fn number<'a>(text: &'a str, negative: bool) -> Option<Value<'a>> {
    let lower = text.to_ascii_lowercase();
    let integer = |digits: &str, radix| {
        let magnitude = i128::from(u64::from_str_radix(digits, radix).ok()?);
        let value = if negative { -magnitude } else { magnitude };
        Some(Value::Number(Cow::Owned(value.to_string())))
    };
    if let Some(digits) = lower.strip_prefix("0x") {
        return integer(digits, 16);
    }
    if text.bytes().all(|c| c.is_ascii_digit()) {
        return match text.strip_prefix('0').filter(|digits| !digits.is_empty()) {
            Some(octal) => integer(octal, 8),
            None => integer(text, 10),
        };
    }
    let value: f64 = lower.strip_suffix('f').unwrap_or(&lower).parse().ok()?;
    Some(Value::Double(if negative { -value } else { value }))
}

#[cfg(test)]
mod tests {
    use crate::{
        envoy::config::{bootstrap::v3::Bootstrap, core::v3::Metadata},
        read::{Options, Source, read},
    };

    fn load<M: prost::Message + prost::Name + Default>(text: &str) -> Result<M, String> {
        read(&Source::file("a.pb_text", text.as_bytes()), &Options::default())
            .map(|loaded| loaded.message)
            .map_err(|errors| errors.to_string())
    }

    #[test]
    fn a_bootstrap() {
        let bootstrap: Bootstrap = load(
            r#"
            # comment
            node { id: "u" 'v', cluster: "c\x41\101\u00e9" }
            static_resources: <
              clusters {
                name: "x"; type: STRICT_DNS
                connect_timeout { seconds: 0x5 nanos: 010 }
                per_connection_buffer_limit_bytes { value: 7 }
                ignore_health_on_host_removal: true
                metadata { filter_metadata { key: "k" value { fields { key: "a" value { number_value: -1.5f } } } } }
              }
              clusters: [{ name: "y" }, { name: "z" }]
            >
            enable_dispatcher_stats: 1
            "#,
        )
        .unwrap();
        assert!(bootstrap.enable_dispatcher_stats);
        let node = bootstrap.node.unwrap();
        assert_eq!((node.id.as_str(), node.cluster.as_str()), ("uv", "cAAé"));
        let clusters = bootstrap.static_resources.unwrap().clusters;
        assert_eq!(clusters.iter().map(|c| c.name.as_str()).collect::<Vec<_>>(), ["x", "y", "z"]);
        let timeout = clusters[0].connect_timeout.unwrap();
        assert_eq!((timeout.seconds, timeout.nanos), (5, 8));
        assert_eq!(clusters[0].per_connection_buffer_limit_bytes, Some(7));
        let metadata = clusters[0].metadata.as_ref().unwrap();
        assert!(format!("{:?}", metadata.filter_metadata["k"]).contains("NumberValue(-1.5)"));
    }

    #[test]
    fn any_is_expanded_or_raw() {
        for text in [
            r#"typed_filter_metadata { key: "a" value { [type.googleapis.com/envoy.config.core.v3.Node] { id: "x" } } }"#,
            r#"typed_filter_metadata { key: "a" value { type_url: "type.googleapis.com/envoy.config.core.v3.Node" value: "\n\001x" } }"#,
        ] {
            let metadata: Metadata = load(text).unwrap();
            let any = &metadata.typed_filter_metadata["a"];
            assert_eq!(any.type_url, "type.googleapis.com/envoy.config.core.v3.Node");
            assert_eq!(any.value, [10, 1, b'x']);
        }
        let unknown = r#"typed_filter_metadata { key: "a" value { [a/no.such.Type] { id: "x" } } }"#;
        assert!(load::<Metadata>(unknown).unwrap_err().contains("could not find"));
    }

    #[test]
    fn errors_have_places() {
        for (text, error) in [
            ("node { id: 5 }", "a.pb_text:1:12: node.id: expected a string, got a number"),
            ("node { nope: 5 }", "a.pb_text:1:8: node.nope: no such field: 'nope'"),
            ("node {", "a.pb_text:1:7: expected a field name, found the end of the text"),
            ("node 5", "a.pb_text:1:6: expected ':' or a message, found '5'"),
            ("\nnode { id: \"a\n\" }", "a.pb_text:2:14: expected the end of a string, found '\n'"),
            ("}", "a.pb_text:1:1: expected a field name, found '}'"),
        ] {
            assert_eq!(load::<Bootstrap>(text), Err(error.to_owned()), "{text}");
        }
        assert!(load::<Bootstrap>(&"node {".repeat(100_000)).unwrap_err().contains("nested too deeply"));
        assert!(
            load::<Bootstrap>(&format!("a: {}", "[".repeat(100_000))).unwrap_err().contains("too deeply")
        );
    }
}
