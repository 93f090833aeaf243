//! Spelling of field names on the wire (`header_key_format`).

use bytes::{BufMut as _, Bytes, BytesMut};

/// How field names are written.
#[derive(Clone, Copy, Debug, Default)]
pub enum KeyFormat<'a> {
    /// As they are: lower case (Envoy's default).
    #[default]
    Lower,
    /// `proper_case_words`: the first letter of every word is upper case.
    ProperCase,
    /// `preserve_case`: as the other side spelled them, lower case for what it did not send.
    Preserve(&'a HeaderCase),
}

/// The spelling of the field names of one message, as received.
#[derive(Clone, Debug, Default)]
pub struct HeaderCase {
    names: Vec<Bytes>,
}

impl HeaderCase {
    /// Notes a name that is not all lower case. The last spelling of a name counts.
    pub(super) fn note(&mut self, name: Bytes) {
        match self.names.iter_mut().find(|known| known.eq_ignore_ascii_case(&name)) {
            Some(known) => *known = name,
            None => self.names.push(name),
        }
    }

    /// The original spelling of a lower-case name, if it differed.
    pub fn original(&self, name: &str) -> Option<&[u8]> {
        self.names.iter().find(|known| known.eq_ignore_ascii_case(name.as_bytes())).map(|known| &known[..])
    }
}

impl KeyFormat<'_> {
    /// Appends `name` in this spelling.
    pub(super) fn write(self, name: &str, out: &mut BytesMut) {
        match self {
            Self::Lower => out.put_slice(name.as_bytes()),
            Self::ProperCase => {
                let mut in_word = false;
                for byte in name.bytes() {
                    out.put_u8(if in_word { byte } else { byte.to_ascii_uppercase() });
                    in_word = byte.is_ascii_alphanumeric();
                }
            }
            Self::Preserve(case) => out.put_slice(case.original(name).unwrap_or(name.as_bytes())),
        }
    }
}
