//! Protobuf's wire format, as much of it as reading, checking and writing configuration needs.

/// The value of a field on the wire.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Value<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
    Fixed32(u32),
    /// A group of proto2, skipped: the API has none.
    Group,
}

pub(crate) const VARINT: u32 = 0;
pub(crate) const FIXED64: u32 = 1;
pub(crate) const BYTES: u32 = 2;
pub(crate) const FIXED32: u32 = 5;

/// The message ends in the middle of a field, or has an impossible key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

/// The fields of a message, in the order of the wire. After an error it ends.
#[derive(Clone, Copy)]
pub(crate) struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    pub(crate) fn new(message: &'a [u8]) -> Fields<'a> {
        Fields { rest: message }
    }

    /// How many bytes come after the fields that were read so far.
    pub(crate) fn remaining(&self) -> usize {
        self.rest.len()
    }

    fn field(&mut self) -> Result<(u32, Value<'a>), Malformed> {
        let (number, wire_type) = self.key()?;
        let value = match wire_type {
            VARINT => Value::Varint(varint(&mut self.rest)?),
            FIXED64 => Value::Fixed64(u64::from_le_bytes(self.fixed()?)),
            BYTES => {
                let length = varint(&mut self.rest)?;
                Value::Bytes(self.take(length)?)
            }
            3 => {
                self.skip_group()?;
                Value::Group
            }
            FIXED32 => Value::Fixed32(u32::from_le_bytes(self.fixed()?)),
            _ => return Err(Malformed),
        };
        Ok((number, value))
    }

    fn key(&mut self) -> Result<(u32, u32), Malformed> {
        let key = u32::try_from(varint(&mut self.rest)?).map_err(|_| Malformed)?;
        if key >> 3 == 0 { Err(Malformed) } else { Ok((key >> 3, key & 7)) }
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8], Malformed> {
        let length = usize::try_from(length).map_err(|_| Malformed)?;
        self.rest.split_off(..length).ok_or(Malformed)
    }

    fn fixed<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (bytes, rest) = self.rest.split_first_chunk().ok_or(Malformed)?;
        self.rest = rest;
        Ok(*bytes)
    }

    /// Skips to the end of the group that has just begun, however deeply groups nest in it.
    fn skip_group(&mut self) -> Result<(), Malformed> {
        let mut depth = 1;
        while depth > 0 {
            match self.key()?.1 {
                VARINT => varint(&mut self.rest).map(drop)?,
                FIXED64 => self.take(8).map(drop)?,
                BYTES => {
                    let length = varint(&mut self.rest)?;
                    self.take(length).map(drop)?;
                }
                3 => depth += 1,
                4 => depth -= 1,
                FIXED32 => self.take(4).map(drop)?,
                _ => return Err(Malformed),
            }
        }
        Ok(())
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u32, Value<'a>), Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.rest = &[];
        }
        Some(field)
    }
}

/// Reads a varint from the front of `rest`.
pub(crate) fn varint(rest: &mut &[u8]) -> Result<u64, Malformed> {
    let mut value = 0;
    for (at, &byte) in rest.iter().take(10).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * at);
        if byte < 0x80 {
            *rest = &rest[at + 1..];
            return Ok(value);
        }
    }
    Err(Malformed)
}

/// `sint32` and `sint64`.
pub(crate) fn unzigzag(value: u64) -> i64 {
    (value >> 1).cast_signed() ^ -(value & 1).cast_signed()
}

pub(crate) fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)).cast_unsigned()
}

pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

pub(crate) fn put_key(out: &mut Vec<u8>, number: u32, wire_type: u32) {
    put_varint(out, u64::from(number << 3 | wire_type));
}

pub(crate) fn put_bytes(out: &mut Vec<u8>, number: u32, bytes: &[u8]) {
    put_key(out, number, BYTES);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Where the length of a nested value goes.
#[must_use]
pub(crate) struct Nested(usize);

/// Begins a length-delimited field whose content is written next.
pub(crate) fn begin(out: &mut Vec<u8>, number: u32) -> Nested {
    put_key(out, number, BYTES);
    out.push(0);
    Nested(out.len())
}

/// Ends the field: writes its length before its content.
pub(crate) fn end(out: &mut Vec<u8>, nested: Nested) {
    let start = nested.0;
    let length = out.len() - start;
    if length < 0x80 {
        out[start - 1] = length as u8;
        return;
    }
    let mut prefix = Vec::with_capacity(5);
    put_varint(&mut prefix, length as u64);
    let extra = prefix.len() - 1;
    out.resize(out.len() + extra, 0);
    out.copy_within(start..start + length, start + extra);
    out[start - 1..start + extra].copy_from_slice(&prefix);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_lengths_of_any_size() {
        for size in [0, 1, 127, 128, 16_383, 16_384, 100_000] {
            let mut out = vec![];
            let nested = begin(&mut out, 2);
            out.resize(out.len() + size, 7);
            end(&mut out, nested);
            let fields: Vec<_> = Fields::new(&out).collect();
            assert_eq!(fields, [Ok((2, Value::Bytes(&vec![7; size])))]);
        }
    }

    #[test]
    fn varints_and_zigzag() {
        for value in [0, 1, -1, i64::MAX, i64::MIN, 300] {
            let mut out = vec![];
            put_varint(&mut out, zigzag(value));
            assert_eq!(varint(&mut &out[..]).map(unzigzag), Ok(value));
        }
        assert_eq!(varint(&mut &[0x80; 11][..]), Err(Malformed));
        assert_eq!(varint(&mut &[0x80][..]), Err(Malformed));
    }

    #[test]
    fn malformed_messages_end() {
        for bytes in [&[0x08][..], &[0x0a, 5, 1], &[0x00, 1], &[0x0d, 1], &[0x0b, 0x08, 1], &[0x0e, 1]] {
            assert_eq!(Fields::new(bytes).collect::<Vec<_>>(), [Err(Malformed)], "{bytes:?}");
        }
        let group = [0x0b, 0x13, 0x14, 0x08, 1, 0x0c, 0x10, 9];
        let fields: Vec<_> = Fields::new(&group).collect();
        assert_eq!(fields, [Ok((1, Value::Group)), Ok((2, Value::Varint(9)))]);
    }
}
