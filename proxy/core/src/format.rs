//! Format strings: text with `%COMMAND%` in it, compiled once and rendered for every log line, header or body.
//!
//! A [`Format`] is a text format. A [`LineFormat`] is what the configuration's `SubstitutionFormatString` becomes: text
//! or JSON. Rendering appends to a buffer of the caller's, allocates nothing for plain values, and cannot fail: what has
//! no value prints `-` (text), `null` (JSON) or nothing (`omit_empty_values`).
//! Commands about TLS peers, QUIC and traces compile and print as missing, as they do in Envoy on plaintext TCP.
//! Source: Envoy `docs/root/configuration/observability/access_log/usage.rst`.

mod command;
mod config;
mod json;
mod operator;
mod parse;
mod query;
mod render;
mod time;

#[cfg(test)]
pub(crate) mod tests;

use operator::{Op, Operator};
use render::{Shape, Target};

use crate::extension::access_log::LogEntry;

pub use config::{FIELDS, LineFormat, check_formatters};
pub(crate) use render::grpc_status_of_response;

/// The format of access logs that configure none.
pub const DEFAULT_FORMAT: &str = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" \
%RESPONSE_CODE% %RESPONSE_FLAGS% %BYTES_RECEIVED% %BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \
\"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\"\n";

/// What a command without a value prints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Empty {
    /// `-` in text, `null` in JSON.
    #[default]
    Dash,
    /// Nothing in text; in JSON the key is left out (`omit_empty_values`).
    Omit,
}

/// A piece of a text format.
#[derive(Clone, Debug)]
enum Part {
    Text(String),
    Operator(Operator),
}

/// A compiled text format.
#[derive(Clone, Debug)]
pub struct Format {
    parts: Vec<Part>,
    empty: Empty,
}

impl Format {
    /// Compiles `text`; a missing value will print `-`. The error says what is wrong and at which byte.
    pub fn parse(text: &str) -> Result<Self, String> {
        Self::parse_with(text, Empty::Dash)
    }

    /// Compiles `text` with a choice of what missing values print.
    pub fn parse_with(text: &str, empty: Empty) -> Result<Self, String> {
        Ok(Self { parts: parse::parse(text)?, empty })
    }

    /// Appends the text for `entry`. Header values are copied as they are, so the result need not be UTF-8.
    pub fn render(&self, entry: &LogEntry<'_>, out: &mut Vec<u8>) {
        render_parts(&self.parts, self.empty, entry, out);
    }

    /// Whether it is one command and nothing else.
    pub fn is_one_command(&self) -> bool {
        matches!(self.parts.as_slice(), [Part::Operator(_)])
    }

    /// The text, if it is the same for every entry.
    pub fn constant(&self) -> Option<&str> {
        match self.parts.as_slice() {
            [] => Some(""),
            [Part::Text(text)] => Some(text),
            [Part::Operator(_)] | [_, _, ..] => None,
        }
    }
}

fn render_parts(parts: &[Part], empty: Empty, entry: &LogEntry<'_>, out: &mut Vec<u8>) {
    for part in parts {
        match part {
            Part::Text(text) => out.extend_from_slice(text.as_bytes()),
            Part::Operator(operator) => {
                if operator.render(entry, Target::Text, out) == Shape::Missing && empty == Empty::Dash {
                    out.push(b'-');
                }
            }
        }
    }
}
