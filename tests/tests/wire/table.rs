//! Reading the tables of wire cases.

use anyhow::{Context, Result, bail};
use integration::upstream::{Reply, Step};

/// Answers and requests at the upstream.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) statuses: Vec<u16>,
    pub(crate) requests: usize,
}

/// What the head at the upstream must contain, or must not.
#[derive(Debug)]
pub(crate) struct Sees {
    text: Vec<u8>,
    absent: bool,
}

impl Sees {
    pub(crate) fn holds(&self, head: &[u8]) -> bool {
        head.windows(self.text.len()).any(|window| window == self.text) != self.absent
    }
}

/// A line of a table of requests.
#[derive(Debug)]
pub(crate) struct RequestCase {
    pub(crate) name: String,
    pub(crate) envoy: Vec<Outcome>,
    pub(crate) ours: Vec<Outcome>,
    pub(crate) bytes: Vec<u8>,
    pub(crate) fin: bool,
    pub(crate) sees: Option<Sees>,
}

/// A line of the table of upstreams.
#[derive(Debug)]
pub(crate) struct UpstreamCase {
    pub(crate) name: String,
    pub(crate) envoy: Vec<String>,
    pub(crate) ours: Vec<String>,
    pub(crate) reply: Reply,
}

fn rows(text: &str) -> impl Iterator<Item = (&str, Vec<&str>)> {
    text.lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| (line, line.split(" |").map(|cell| cell.strip_prefix(' ').unwrap_or(cell)).collect()))
}

pub(crate) fn requests(text: &str) -> Result<Vec<RequestCase>> {
    let request = |cells: &[&str]| -> Result<RequestCase> {
        let &[name, envoy, ours, bytes, ref rest @ ..] = cells else { bail!("too few columns") };
        let (bytes, fin) = match bytes.strip_suffix("<FIN>") {
            Some(bytes) => (bytes, true),
            None => (bytes, false),
        };
        let sees = match rest.first().copied().unwrap_or_default() {
            "" => None,
            text => {
                Some(Sees { text: unescape(text.trim_start_matches('!'))?, absent: text.starts_with('!') })
            }
        };
        Ok(RequestCase {
            name: name.trim().to_owned(),
            envoy: outcomes(envoy)?,
            ours: outcomes(ours)?,
            bytes: unescape(bytes)?,
            fin,
            sees,
        })
    };
    rows(text).map(|(line, cells)| request(&cells).with_context(|| line.to_owned())).collect()
}

fn outcomes(cell: &str) -> Result<Vec<Outcome>> {
    cell.split_whitespace()
        .map(|text| {
            let (statuses, requests) = text.split_once('/').context("an outcome is STATUSES/REQUESTS")?;
            let statuses = statuses
                .split(',')
                .filter(|status| *status != "-")
                .map(str::parse)
                .collect::<Result<_, _>>()?;
            Ok(Outcome { statuses, requests: requests.parse()? })
        })
        .collect()
}

pub(crate) fn upstreams(text: &str) -> Result<Vec<UpstreamCase>> {
    let words = |cell: &str| cell.split_whitespace().map(str::to_owned).collect();
    let upstream = |cells: &[&str]| -> Result<UpstreamCase> {
        let &[name, envoy, ours, bytes, ..] = cells else { bail!("too few columns") };
        let (bytes, last) = match bytes {
            bytes if bytes.ends_with("<FIN>") => (bytes.trim_end_matches("<FIN>"), Some(Step::Close)),
            bytes if bytes.ends_with("<RST>") => (bytes.trim_end_matches("<RST>"), Some(Step::Reset)),
            bytes if bytes.ends_with("<STALL>") => (bytes.trim_end_matches("<STALL>"), Some(Step::Stall)),
            bytes => (bytes, None),
        };
        let steps = [Step::Send(unescape(bytes)?)].into_iter().chain(last);
        Ok(UpstreamCase {
            name: name.trim().to_owned(),
            envoy: words(envoy),
            ours: words(ours),
            reply: Reply::steps(steps),
        })
    };
    rows(text).map(|(line, cells)| upstream(&cells).with_context(|| line.to_owned())).collect()
}

/// `\r \n \t \0 \xNN \\` and `{N*text}`, which is N times the text.
fn unescape(text: &str) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let (bytes, length) = match first {
            '\\' => escaped(rest)?,
            '{' => {
                let end = rest.find('}').context("{ without }")?;
                let (count, text) = rest[1..end].split_once('*').context("{ without *")?;
                (unescape(text)?.repeat(count.parse()?), end + 1)
            }
            other => (other.to_string().into_bytes(), other.len_utf8()),
        };
        out.extend(bytes);
        rest = &rest[length..];
    }
    Ok(out)
}

fn escaped(text: &str) -> Result<(Vec<u8>, usize)> {
    let byte = match text.as_bytes().get(1) {
        Some(b'r') => b'\r',
        Some(b'n') => b'\n',
        Some(b't') => b'\t',
        Some(b'0') => 0,
        Some(b'\\') => b'\\',
        Some(b'x') => return Ok((vec![u8::from_str_radix(text.get(2..4).context("\\x")?, 16)?], 4)),
        other => bail!("unknown escape {other:?}"),
    };
    Ok((vec![byte], 2))
}

/// Bytes for a message.
pub(crate) fn escape(bytes: &[u8]) -> String {
    let mut text = bytes.escape_ascii().to_string();
    if text.len() > 400 {
        text.truncate(400);
        text.push_str("...");
    }
    text
}
