//! HPACK (RFC 7541) of blocks that stand by themselves: payloads of METADATA frames, for which no state outlives a block.
//!
//! A block is not taken apart into fields that are kept: nobody looks at them. [`renew`] checks it, and writes what it says as plainly as
//! can be: each name once, nothing that refers to the dynamic table, so that what the next peer reads is what was read here.

use std::collections::{HashSet, VecDeque};

mod huffman;
mod static_table;

use static_table::STATIC;

/// Size of the dynamic table.
const TABLE_SIZE: usize = 4096;
/// What an entry of the dynamic table counts beside its octets (RFC 7541, 4.1).
const ENTRY: usize = 32;

/// A block that breaks the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed HPACK")]
pub struct Malformed;

/// Writes `block` anew; nothing if it holds no fields. Of fields with the same name the first counts, as for Envoy.
pub fn renew(block: &[u8]) -> Result<Option<Vec<u8>>, Malformed> {
    let mut reader = Reader { rest: block, table: Table::default(), names: HashSet::new(), out: Vec::new() };
    reader.read()?;
    Ok((!reader.out.is_empty()).then_some(reader.out))
}

struct Reader<'b> {
    rest: &'b [u8],
    table: Table,
    /// What was written.
    names: HashSet<Vec<u8>>,
    out: Vec<u8>,
}

/// The name of a field.
enum Name {
    Known(Vec<u8>),
    /// One of an entry of the dynamic table, of this length. It needs not be known: who made the entry wrote it.
    Written(usize),
}

impl Reader<'_> {
    fn read(&mut self) -> Result<(), Malformed> {
        // At most two changes of the table's size precede the fields (RFC 7541, 4.2).
        for _ in 0..2 {
            if self.rest.first().is_none_or(|first| first & 0xe0 != 0x20) {
                break;
            }
            let size = self.integer(5)?;
            self.table.resize(size)?;
        }
        while let Some(first) = self.rest.first().copied() {
            match first {
                0x80.. => self.indexed()?,
                0x40..0x80 => {
                    let (name, value) = self.literal(6)?;
                    let name = match name {
                        Name::Known(name) => {
                            self.write(&name, &value);
                            name.len()
                        }
                        Name::Written(length) => length,
                    };
                    self.table.insert(name, value.len());
                }
                0x20..0x40 => return Err(Malformed),
                0x00..0x20 => {
                    if let (Name::Known(name), value) = self.literal(4)? {
                        self.write(&name, &value);
                    }
                }
            }
        }
        Ok(())
    }

    fn indexed(&mut self) -> Result<(), Malformed> {
        let index = self.integer(7)?;
        match entry(index)? {
            Entry::Static(name, value) => self.write(name.as_bytes(), value.as_bytes()),
            Entry::Dynamic(at) => {
                self.table.name(at)?;
            }
        }
        Ok(())
    }

    fn literal(&mut self, prefix: u32) -> Result<(Name, Vec<u8>), Malformed> {
        let index = self.integer(prefix)?;
        let name = match index {
            0 => Name::Known(self.string()?),
            index => match entry(index)? {
                Entry::Static(name, _) => Name::Known(name.as_bytes().to_vec()),
                Entry::Dynamic(at) => Name::Written(self.table.name(at)?),
            },
        };
        Ok((name, self.string()?))
    }

    /// An integer behind a prefix of so many bits (RFC 7541, 5.1).
    fn integer(&mut self, prefix: u32) -> Result<usize, Malformed> {
        let most = (1_usize << prefix) - 1;
        let mut value = usize::from(self.octet()?) & most;
        if value < most {
            return Ok(value);
        }
        // What takes more octets is no length and no index.
        for shift in [0, 7, 14, 21] {
            let octet = self.octet()?;
            value += usize::from(octet & 0x7f) << shift;
            if octet < 0x80 {
                return Ok(value);
            }
        }
        Err(Malformed)
    }

    fn string(&mut self) -> Result<Vec<u8>, Malformed> {
        let is_code = self.rest.first().is_some_and(|first| first & 0x80 != 0);
        let length = self.integer(7)?;
        let (string, rest) = self.rest.split_at_checked(length).ok_or(Malformed)?;
        self.rest = rest;
        if !is_code {
            return Ok(string.to_vec());
        }
        let mut text = Vec::with_capacity(length);
        huffman::decode(string, &mut text)?;
        Ok(text)
    }

    fn octet(&mut self) -> Result<u8, Malformed> {
        let (octet, rest) = self.rest.split_first().ok_or(Malformed)?;
        self.rest = rest;
        Ok(*octet)
    }

    fn write(&mut self, name: &[u8], value: &[u8]) {
        if self.names.contains(name) {
            return;
        }
        self.names.insert(name.to_vec());
        let index = |find: &dyn Fn(&(&str, &str)) -> bool| Some(STATIC.iter().position(find)? + 1);
        if let Some(index) = index(&|entry| entry.0.as_bytes() == name && entry.1.as_bytes() == value) {
            write_integer(&mut self.out, 7, 0x80, index);
            return;
        }
        match index(&|entry| entry.0.as_bytes() == name) {
            Some(index) => write_integer(&mut self.out, 4, 0, index),
            None => {
                self.out.push(0);
                write_string(&mut self.out, name);
            }
        }
        write_string(&mut self.out, value);
    }
}

enum Entry {
    Static(&'static str, &'static str),
    /// At this place of the dynamic table.
    Dynamic(usize),
}

fn entry(index: usize) -> Result<Entry, Malformed> {
    let at = index.checked_sub(1).ok_or(Malformed)?;
    Ok(match STATIC.get(at) {
        Some((name, value)) => Entry::Static(name, value),
        None => Entry::Dynamic(at - STATIC.len()),
    })
}

/// The dynamic table, or what has to be known of it: the lengths of its names and values.
struct Table {
    /// The newest first.
    entries: VecDeque<(usize, usize)>,
    size: usize,
    most: usize,
}

impl Default for Table {
    fn default() -> Self {
        Self { entries: VecDeque::new(), size: 0, most: TABLE_SIZE }
    }
}

impl Table {
    fn name(&self, at: usize) -> Result<usize, Malformed> {
        self.entries.get(at).map(|(name, _)| *name).ok_or(Malformed)
    }

    fn insert(&mut self, name: usize, value: usize) {
        let size = name + value + ENTRY;
        self.shrink(self.most.saturating_sub(size));
        if size <= self.most {
            self.entries.push_front((name, value));
            self.size += size;
        }
    }

    fn resize(&mut self, most: usize) -> Result<(), Malformed> {
        if most > TABLE_SIZE {
            return Err(Malformed);
        }
        self.most = most;
        self.shrink(most);
        Ok(())
    }

    fn shrink(&mut self, size: usize) {
        while self.size > size
            && let Some((name, value)) = self.entries.pop_back()
        {
            self.size -= name + value + ENTRY;
        }
    }
}

fn write_integer(out: &mut Vec<u8>, prefix: u32, first: u8, value: usize) {
    let most = (1_usize << prefix) - 1;
    out.push(first | value.min(most) as u8);
    let Some(mut rest) = value.checked_sub(most) else { return };
    while rest >= 0x80 {
        out.push((rest & 0x7f) as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

fn write_string(out: &mut Vec<u8>, text: &[u8]) {
    let length = huffman::length(text);
    if length < text.len() {
        write_integer(out, 7, 0x80, length);
        huffman::encode(text, out);
    } else {
        write_integer(out, 7, 0, text.len());
        out.extend_from_slice(text);
    }
}

#[cfg(test)]
mod tests;
