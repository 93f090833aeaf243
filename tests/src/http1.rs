//! Reading HTTP/1 as a strict observer: what exactly came over the wire, not what a library makes of it.

use anyhow::{Context, Result, bail, ensure};

/// A header or trailer section in wire order, names as they were sent.
pub type Fields = Vec<(String, String)>;

/// The first header of that name (compared without case).
pub fn field<'a>(fields: &'a Fields, name: &str) -> Option<&'a str> {
    fields.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
}

/// A head as received: the first line and the fields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Request line or status line, without line end.
    pub line: String,
    pub fields: Fields,
}

impl Head {
    /// Splits the bytes of a head that ends with an empty line. Bytes that are not UTF-8 are shown as U+FFFD.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let text = String::from_utf8_lossy(bytes);
        let mut lines = text.split('\n').map(|line| line.strip_suffix('\r').unwrap_or(line));
        let line = lines.next().context("empty head")?.to_owned();
        Ok(Self { line, fields: parse_fields(lines)? })
    }

    /// The status of a status line.
    pub fn status(&self) -> Result<u16> {
        let status = self.line.split(' ').nth(1).with_context(|| format!("no status in {:?}", self.line))?;
        status.parse().with_context(|| format!("status {status:?}"))
    }

    /// The method of a request line.
    pub fn method(&self) -> &str {
        self.line.split(' ').next().unwrap_or_default()
    }

    fn has_token(&self, name: &str, token: &str) -> bool {
        self.fields
            .iter()
            .filter(|(n, _)| n.eq_ignore_ascii_case(name))
            .any(|(_, value)| value.split(',').any(|part| part.trim().eq_ignore_ascii_case(token)))
    }

    /// Whether `Connection` names the token.
    pub fn connection_says(&self, token: &str) -> bool {
        self.has_token("connection", token)
    }
}

fn parse_fields<'a>(lines: impl Iterator<Item = &'a str>) -> Result<Fields> {
    let mut fields = Fields::new();
    for line in lines {
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(':').with_context(|| format!("no colon in {line:?}"))?;
        fields.push((name.to_owned(), value.trim_matches([' ', '\t']).to_owned()));
    }
    Ok(fields)
}

/// How the end of a body is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    None,
    Length(usize),
    Chunked,
    UntilClose,
}

impl Framing {
    /// Of a request with that head.
    pub fn of_request(head: &Head) -> Result<Self> {
        if head.has_token("transfer-encoding", "chunked") {
            return Ok(Self::Chunked);
        }
        match field(&head.fields, "content-length") {
            Some(length) => {
                Ok(Self::Length(length.parse().with_context(|| format!("content-length {length:?}"))?))
            }
            None => Ok(Self::None),
        }
    }

    /// Of a response with that head to a request with that method.
    pub fn of_response(head: &Head, method: &str) -> Result<Self> {
        let status = head.status()?;
        if method == "HEAD" || status < 200 || status == 204 || status == 304 {
            return Ok(Self::None);
        }
        if method == "CONNECT" && status / 100 == 2 {
            return Ok(Self::None);
        }
        Ok(match Self::of_request(head)? {
            Self::None => Self::UntilClose,
            other => other,
        })
    }
}

/// A body found at the start of a buffer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Body {
    /// Without chunk framing.
    pub data: Vec<u8>,
    pub trailers: Fields,
    /// How many bytes of the buffer it took.
    pub taken: usize,
}

/// The length of the head at the start of `buffer`, its empty line included; `None` until it is complete.
pub fn head_length(buffer: &[u8]) -> Option<usize> {
    let crlf = buffer.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4);
    let lf = buffer.windows(2).position(|window| window == b"\n\n").map(|at| at + 2);
    match (crlf, lf) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

/// Takes a body from the start of `buffer`; `None` while it is incomplete (always, with `UntilClose`, before `closed`).
pub fn take_body(buffer: &[u8], framing: Framing, closed: bool) -> Result<Option<Body>> {
    match framing {
        Framing::None => Ok(Some(Body::default())),
        Framing::Length(length) => Ok((buffer.len() >= length).then(|| Body {
            data: buffer[..length].to_vec(),
            trailers: vec![],
            taken: length,
        })),
        Framing::UntilClose => {
            Ok(closed.then(|| Body { data: buffer.to_vec(), trailers: vec![], taken: buffer.len() }))
        }
        Framing::Chunked => take_chunks(buffer),
    }
}

fn take_chunks(buffer: &[u8]) -> Result<Option<Body>> {
    let mut body = Body::default();
    loop {
        let rest = &buffer[body.taken..];
        let Some(line) = rest.windows(2).position(|window| window == b"\r\n") else { return Ok(None) };
        let size = String::from_utf8_lossy(&rest[..line]);
        let digits = size.split(';').next().unwrap_or_default().trim_end();
        let size = usize::from_str_radix(digits, 16).with_context(|| format!("chunk size {size:?}"))?;
        ensure!(size < 1 << 30, "chunk of {size} bytes");
        if size == 0 {
            return take_trailers(buffer, body, line);
        }
        let Some(chunk) = rest.get(line + 2..line + 2 + size + 2) else { return Ok(None) };
        if &chunk[size..] != b"\r\n" {
            bail!("chunk does not end with CRLF");
        }
        body.data.extend_from_slice(&chunk[..size]);
        body.taken += line + 2 + size + 2;
    }
}

fn take_trailers(buffer: &[u8], mut body: Body, size_line: usize) -> Result<Option<Body>> {
    let from = body.taken + size_line + 2;
    let rest = &buffer[from..];
    if rest.starts_with(b"\r\n") {
        body.taken = from + 2;
        return Ok(Some(body));
    }
    let Some(length) = head_length(rest) else { return Ok(None) };
    let text = String::from_utf8_lossy(&rest[..length]).into_owned();
    body.trailers = parse_fields(text.split('\n').map(|line| line.strip_suffix('\r').unwrap_or(line)))?;
    body.taken = from + length;
    Ok(Some(body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunked_body_with_trailers_is_taken_whole_or_not_at_all() {
        let wire = b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nx-t: 1\r\n\r\nGET";
        for cut in 0..wire.len() - 3 {
            assert_eq!(take_body(&wire[..cut], Framing::Chunked, false).unwrap(), None, "{cut} bytes");
        }
        let body = take_body(wire, Framing::Chunked, false).unwrap().unwrap();
        assert_eq!(body.data, b"abcde");
        assert_eq!(body.trailers, [("x-t".to_owned(), "1".to_owned())]);
        assert_eq!(body.taken, wire.len() - 3);
    }

    #[test]
    fn responses_without_a_body_are_known_by_status_and_method() {
        let head =
            |line: &str| Head { line: line.into(), fields: vec![("content-length".into(), "5".into())] };
        assert_eq!(Framing::of_response(&head("HTTP/1.1 200 OK"), "HEAD").unwrap(), Framing::None);
        assert_eq!(Framing::of_response(&head("HTTP/1.1 304 Not Modified"), "GET").unwrap(), Framing::None);
        assert_eq!(Framing::of_response(&head("HTTP/1.1 200 OK"), "GET").unwrap(), Framing::Length(5));
        assert_eq!(Framing::of_response(&head("HTTP/1.1 200 OK"), "CONNECT").unwrap(), Framing::None);
    }
}
