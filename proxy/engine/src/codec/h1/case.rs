//! Spelling of field names on the wire (`header_key_format`).

use bytes::{BufMut as _, BytesMut};
use proxy_core::head::HeaderCase;

/// How field names are written.
#[derive(Clone, Copy, Debug, Default)]
pub enum KeyFormat<'a> {
    /// As they are: lower case (Envoy's default).
    #[default]
    Lower,
    /// `proper_case_words`: the first letter of every word is upper case.
    ProperCase,
    /// `preserve_case`: as the other side spelled them; what it did not send as that says.
    Preserve(&'a HeaderCase),
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
            Self::Preserve(case) => match case.original(name) {
                Some(original) => out.put_slice(original),
                None if case.proper_case_for_others() => Self::ProperCase.write(name, out),
                None => out.put_slice(name.as_bytes()),
            },
        }
    }
}
