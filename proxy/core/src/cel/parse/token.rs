//! The words, signs and literals of an expression.

/// Signs, those first that begin like others.
const SIGNS: &[&str] = &[
    "&&", "||", "==", "!=", "<=", ">=", "<", ">", "!", "+", "-", "*", "/", "%", "?", ":", ".", ",", "(", ")",
    "[", "]", "{", "}",
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token<'a> {
    /// A name, or a word of the language.
    Word(&'a str),
    /// A number as it is written, without its sign.
    Number(&'a str),
    /// A string or bytes as written, with prefixes and quotes.
    Text(&'a str),
    Sign(&'static str),
}

/// The tokens of a text, and how far they were taken.
pub(super) struct Tokens<'a> {
    tokens: Vec<(usize, Token<'a>)>,
    next: usize,
}

impl<'a> Tokens<'a> {
    pub(super) fn of(text: &'a str) -> Result<Self, String> {
        let mut tokens = Vec::new();
        let mut at = 0;
        while let Some(rest) = text.get(at..).filter(|rest| !rest.is_empty()) {
            let blank = blank(rest);
            if blank > 0 {
                at += blank;
                continue;
            }
            let (token, length) = token(rest).map_err(|error| format!("{error} at {at}"))?;
            tokens.push((at, token));
            at += length;
        }
        Ok(Self { tokens, next: 0 })
    }

    pub(super) fn peek(&self) -> Option<Token<'a>> {
        self.tokens.get(self.next).map(|(_, token)| *token)
    }

    pub(super) fn next(&mut self) -> Option<Token<'a>> {
        let token = self.peek();
        self.next += 1;
        token
    }

    /// Takes this sign, or word, if it is the next.
    pub(super) fn take(&mut self, wanted: &str) -> bool {
        let is_next = match self.peek() {
            Some(Token::Sign(sign)) => sign == wanted,
            Some(Token::Word(word)) => wanted == "in" && word == wanted,
            _ => false,
        };
        self.next += usize::from(is_next);
        is_next
    }

    pub(super) fn expect(&mut self, wanted: &str) -> Result<(), String> {
        if self.take(wanted) {
            return Ok(());
        }
        self.next += 1;
        Err(format!("{}: expected '{wanted}'", self.unexpected()))
    }

    /// Says that what was taken last does not belong there.
    pub(super) fn unexpected(&self) -> String {
        match self.next.checked_sub(1).and_then(|last| self.tokens.get(last)) {
            Some((at, Token::Word(what) | Token::Number(what) | Token::Text(what))) => {
                format!("unexpected {what} at {at}")
            }
            Some((at, Token::Sign(sign))) => format!("unexpected '{sign}' at {at}"),
            None => "unexpected end".to_owned(),
        }
    }
}

/// Length of the space or comment at the beginning.
fn blank(rest: &str) -> usize {
    if rest.starts_with("//") {
        return rest.find('\n').unwrap_or(rest.len());
    }
    rest.len() - rest.trim_start_matches([' ', '\t', '\n', '\r', '\x0c']).len()
}

fn token(rest: &str) -> Result<(Token<'_>, usize), String> {
    if let Some(length) = text(rest)? {
        return Ok((Token::Text(&rest[..length]), length));
    }
    if let Some(length) = number(rest) {
        return Ok((Token::Number(&rest[..length]), length));
    }
    let word = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_alphanumeric() || c == '_').len();
    if word > 0 {
        return Ok((Token::Word(&rest[..word]), word));
    }
    let sign = SIGNS.iter().find(|sign| rest.starts_with(**sign));
    sign.map(|sign| (Token::Sign(sign), sign.len())).ok_or_else(|| "unknown sign".to_owned())
}

/// Length of a string or of bytes with prefixes and quotes.
fn text(rest: &str) -> Result<Option<usize>, String> {
    let prefix = rest.len() - rest.trim_start_matches(['r', 'R', 'b', 'B']).len();
    let quoted = &rest[prefix..];
    let quote = match quoted.as_bytes() {
        [b'"', b'"', b'"', ..] => "\"\"\"",
        [b'\'', b'\'', b'\'', ..] => "'''",
        [b'"', ..] => "\"",
        [b'\'', ..] => "'",
        _ => return Ok(None),
    };
    let head = &rest[..prefix].to_ascii_lowercase();
    if !matches!(head.as_str(), "" | "r" | "b" | "rb" | "br") {
        return Ok(None);
    }
    let (is_raw, is_line) = (head.contains('r'), quote.len() == 1);
    let mut at = prefix + quote.len();
    loop {
        let left = &rest[at..];
        if left.starts_with(quote) {
            return Ok(Some(at + quote.len()));
        }
        let mut chars = left.chars();
        match chars.next() {
            None => return Err("a string does not end".into()),
            Some('\n' | '\r') if is_line => return Err("a string does not end in its line".into()),
            Some('\\') if !is_raw => at += 1 + chars.next().map_or(0, char::len_utf8),
            Some(letter) => at += letter.len_utf8(),
        }
    }
}

/// Length of a number.
fn number(rest: &str) -> Option<usize> {
    let bytes = rest.as_bytes();
    let digits = |from: usize| bytes[from..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    if let [b'0', b'x' | b'X', first, ..] = bytes
        && first.is_ascii_hexdigit()
    {
        let end = 2 + bytes[2..].iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        return Some(end + usize::from(matches!(bytes.get(end), Some(b'u' | b'U'))));
    }
    let mut end = digits(0);
    let mut is_double = false;
    if bytes.get(end) == Some(&b'.') && bytes.get(end + 1).is_some_and(u8::is_ascii_digit) {
        end += 1 + digits(end + 1);
        is_double = true;
    }
    if end == 0 {
        return None;
    }
    if let Some(b'e' | b'E') = bytes.get(end) {
        let sign = usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-')));
        let exponent = digits(end + 1 + sign);
        if exponent > 0 {
            end += 1 + sign + exponent;
            is_double = true;
        }
    }
    Some(end + usize::from(!is_double && matches!(bytes.get(end), Some(b'u' | b'U'))))
}
