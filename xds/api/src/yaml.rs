//! YAML as Envoy takes it: the parser's events, typed by yaml-cpp's rules for scalars (YAML 1.1 booleans, octal and
//! hexadecimal integers, no floats) and by Envoy's own (an integer outside 32 bits is a string). Confirmed with Envoy 1.40.

use std::{borrow::Cow, collections::HashMap};

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, ScanError, Tag};

use crate::{
    error::Error,
    tree::{Entry, MAX_DEPTH, Node, Position, Value, last_of_each_key},
};

/// How many values all aliases of a text may add up to: a few lines of nested aliases would otherwise fill the memory.
const MAX_ALIASED_VALUES: usize = 1_000_000;

/// The tree of the first document of a YAML text; null if there is none.
pub(crate) fn parse(text: &str) -> Result<Node<'_>, Error> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut builder = Builder { stack: Vec::new(), anchors: HashMap::new(), budget: MAX_ALIASED_VALUES };
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|error| scan_error(&error))?;
        let at = position(span.start);
        let done = match event {
            Event::Nothing | Event::StreamStart | Event::DocumentStart(_) => None,
            Event::StreamEnd | Event::DocumentEnd => return Ok(Node { value: Value::Null, at }),
            Event::SequenceStart(anchor, _) => builder.open(Frame::list(anchor, at))?,
            Event::MappingStart(anchor, _) => builder.open(Frame::map(anchor, at))?,
            Event::SequenceEnd | Event::MappingEnd => builder.close()?,
            Event::Scalar(text, style, anchor, tag) => {
                builder.scalar(text, style, anchor, tag.as_deref(), at)?
            }
            Event::Alias(anchor) => builder.alias(anchor, at)?,
        };
        if let Some(node) = done {
            return Ok(node);
        }
    }
    Ok(Node { value: Value::Null, at: Position::new(1, 1) })
}

fn position(marker: Marker) -> Position {
    Position::new(marker.line(), marker.col() + 1)
}

fn scan_error(error: &ScanError) -> Error {
    position(*error.marker()).error(format!("not YAML: {}", error.info()))
}

/// A list or a map that is being read.
struct Frame<'a> {
    anchor: usize,
    at: Position,
    content: Content<'a>,
}

enum Content<'a> {
    List(Vec<Node<'a>>),
    Map { entries: Vec<Entry<'a>>, key: Option<Key<'a>> },
}

/// A key whose value comes next.
struct Key<'a> {
    text: Cow<'a, str>,
    at: Position,
    /// Tagged `!ignore`: Envoy drops the entry, which only exists to hold anchors.
    ignored: bool,
}

impl Frame<'_> {
    fn list<'a>(anchor: usize, at: Position) -> Frame<'a> {
        Frame { anchor, at, content: Content::List(Vec::new()) }
    }

    fn map<'a>(anchor: usize, at: Position) -> Frame<'a> {
        Frame { anchor, at, content: Content::Map { entries: Vec::new(), key: None } }
    }

    fn wants_key(&self) -> bool {
        matches!(self.content, Content::Map { key: None, .. })
    }
}

/// A value that an anchor names, with what a copy of it costs.
struct Anchored<'a> {
    node: Node<'a>,
    values: usize,
    depth: usize,
}

struct Builder<'a> {
    stack: Vec<Frame<'a>>,
    anchors: HashMap<usize, Anchored<'a>>,
    budget: usize,
}

impl<'a> Builder<'a> {
    fn wants_key(&self) -> bool {
        self.stack.last().is_some_and(Frame::wants_key)
    }

    /// Begins a list or a map. (Returns what the others return, so that the caller reads as one table.)
    fn open(&mut self, frame: Frame<'a>) -> Result<Option<Node<'a>>, Error> {
        if self.wants_key() {
            return Err(frame.at.error("a key must be a scalar"));
        }
        if self.stack.len() >= MAX_DEPTH {
            return Err(frame.at.error("nested too deeply"));
        }
        self.stack.push(frame);
        Ok(None)
    }

    /// Ends the innermost list or map; returns it if it was the outermost.
    fn close(&mut self) -> Result<Option<Node<'a>>, Error> {
        let Some(frame) = self.stack.pop() else { return Ok(None) };
        let value = match frame.content {
            Content::List(nodes) => Value::List(nodes),
            Content::Map { mut entries, .. } => {
                last_of_each_key(&mut entries);
                Value::Map(entries)
            }
        };
        self.place(Node { value, at: frame.at }, frame.anchor)
    }

    fn scalar(
        &mut self,
        text: Cow<'a, str>,
        style: ScalarStyle,
        anchor: usize,
        tag: Option<&Tag>,
        at: Position,
    ) -> Result<Option<Node<'a>>, Error> {
        if self.wants_key() {
            let ignored = tag.is_some_and(|tag| is_local(tag, "ignore"));
            // (yaml-cpp names a null key so, whatever its spelling.)
            let null = style == ScalarStyle::Plain && tag.is_none() && is_null(&text);
            let text = if null { Cow::Borrowed("null") } else { text };
            if anchor != 0 {
                self.define(anchor, &Node { value: Value::String(text.clone()), at })?;
            }
            self.set_key(Key { text, at, ignored });
            return Ok(None);
        }
        self.place(Node { value: scalar(text, style, tag), at }, anchor)
    }

    fn alias(&mut self, anchor: usize, at: Position) -> Result<Option<Node<'a>>, Error> {
        let Some(anchored) = self.anchors.get(&anchor) else {
            return Err(at.error("an alias cannot stand inside the value that it names"));
        };
        if self.wants_key() {
            let Value::String(text) = &anchored.node.value else {
                return Err(at.error("a key must be a scalar"));
            };
            let text = text.clone();
            self.set_key(Key { text, at, ignored: false });
            return Ok(None);
        }
        if self.stack.len() + anchored.depth > MAX_DEPTH {
            return Err(at.error("nested too deeply"));
        }
        self.budget = self.budget.checked_sub(anchored.values).ok_or_else(|| too_many(at))?;
        let node = anchored.node.clone();
        self.place(node, 0)
    }

    fn set_key(&mut self, new: Key<'a>) {
        if let Some(Frame { content: Content::Map { key, .. }, .. }) = self.stack.last_mut() {
            *key = Some(new);
        }
    }

    /// Puts a finished value where it belongs; returns it if it is the whole document.
    fn place(&mut self, node: Node<'a>, anchor: usize) -> Result<Option<Node<'a>>, Error> {
        if anchor != 0 {
            self.define(anchor, &node)?;
        }
        match self.stack.last_mut().map(|frame| &mut frame.content) {
            None => return Ok(Some(node)),
            Some(Content::List(nodes)) => nodes.push(node),
            Some(Content::Map { entries, key }) => {
                if let Some(key) = key.take().filter(|key| !key.ignored) {
                    entries.push(Entry { key: key.text, at: key.at, node });
                }
            }
        }
        Ok(None)
    }

    fn define(&mut self, anchor: usize, node: &Node<'a>) -> Result<(), Error> {
        let (values, depth) = measure(node);
        self.budget = self.budget.checked_sub(values).ok_or_else(|| too_many(node.at))?;
        self.anchors.insert(anchor, Anchored { node: node.clone(), values, depth });
        Ok(())
    }
}

fn too_many(at: Position) -> Error {
    at.error(format!("anchors and aliases repeat more than {MAX_ALIASED_VALUES} values"))
}

/// How many values there are in a tree, and how deep it is. (Its depth is bounded, so is the recursion.)
fn measure(node: &Node<'_>) -> (usize, usize) {
    let (mut values, mut depth) = (1, 0);
    let mut child = |node| {
        let (inner_values, inner_depth) = measure(node);
        values += inner_values;
        depth = depth.max(inner_depth);
    };
    match &node.value {
        Value::List(nodes) => nodes.iter().for_each(&mut child),
        Value::Map(entries) => entries.iter().for_each(|entry| child(&entry.node)),
        _ => return (1, 0),
    }
    (values, depth + 1)
}

/// Whether this is the tag `!name`.
fn is_local(tag: &Tag, name: &str) -> bool {
    tag.handle == "!" && tag.suffix == name
}

/// The tag `!` alone, which says "a string".
fn is_non_specific(tag: &Tag) -> bool {
    (tag.handle == "!" && tag.suffix.is_empty()) || (tag.handle.is_empty() && tag.suffix == "!")
}

fn is_null(text: &str) -> bool {
    matches!(text, "" | "~" | "null" | "Null" | "NULL")
}

fn scalar<'a>(text: Cow<'a, str>, style: ScalarStyle, tag: Option<&Tag>) -> Value<'a> {
    let plain = style == ScalarStyle::Plain;
    match tag {
        None if !plain => return Value::String(text),
        Some(tag) if is_non_specific(tag) => return Value::String(text),
        None if is_null(&text) => return Value::Null,
        _ => {}
    }
    if let Some(value) = boolean(&text) {
        return Value::Bool(value);
    }
    match integer(&text) {
        Some(value) if i32::try_from(value).is_ok() => Value::Int(value),
        Some(value) => Value::String(Cow::Owned(value.to_string())),
        None => Value::String(text),
    }
}

/// yaml-cpp's booleans: all lower case, all upper case, or capitalised.
fn boolean(text: &str) -> Option<bool> {
    const WORDS: [(&str, bool); 8] = [
        ("y", true),
        ("n", false),
        ("on", true),
        ("no", false),
        ("yes", true),
        ("off", false),
        ("true", true),
        ("false", false),
    ];
    let (_, value) = WORDS.iter().find(|(word, _)| word.eq_ignore_ascii_case(text))?;
    let tail_is = |matches: fn(&u8) -> bool| text.as_bytes().iter().skip(1).all(matches);
    let first_is_upper = text.starts_with(|c: char| c.is_ascii_uppercase());
    let regular = tail_is(u8::is_ascii_lowercase) || (first_is_upper && tail_is(u8::is_ascii_uppercase));
    regular.then_some(*value)
}

/// An integer as C++ streams read it without a fixed base: decimal, `0x` hexadecimal, leading-zero octal, in 64 bits.
fn integer(text: &str) -> Option<i64> {
    let (negative, digits) = match text.as_bytes() {
        [b'-', ..] => (true, text.get(1..)?),
        [b'+', ..] => (false, text.get(1..)?),
        _ => (false, text),
    };
    let (radix, digits) = match digits.as_bytes() {
        [b'0', b'x' | b'X', ..] => (16, digits.get(2..)?),
        [b'0', _, ..] => (8, digits.get(1..)?),
        _ => (10, digits),
    };
    if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    let magnitude = i128::from(u64::from_str_radix(digits, radix).ok()?);
    i64::try_from(if negative { -magnitude } else { magnitude }).ok()
}

#[cfg(test)]
mod tests;
