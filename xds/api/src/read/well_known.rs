//! The messages that JSON writes in a form of their own, and the conversion of both `TypedStruct`s.

use super::{Reader, Style, scalar};
use crate::{
    schema::{Kind, Message, WellKnown},
    tree::{Entry, Node, Value},
    wire,
};

/// The fields of `google.protobuf.Value`.
mod value_field {
    pub(super) const NULL: u32 = 1;
    pub(super) const NUMBER: u32 = 2;
    pub(super) const STRING: u32 = 3;
    pub(super) const BOOL: u32 = 4;
    pub(super) const STRUCT: u32 = 5;
    pub(super) const LIST: u32 = 6;
}

impl Reader {
    /// Reads a well-known type; false if it is written as an ordinary message here.
    pub(super) fn well_known(&mut self, message: Message, node: &Node<'_>) -> bool {
        if self.style == Style::Text {
            return message.well_known() == WellKnown::Any && self.expanded_any(node);
        }
        match (message.well_known(), &node.value) {
            (WellKnown::Any, Value::Map(entries)) => self.any(entries, node),
            (WellKnown::Struct, Value::Map(entries)) => self.structure(entries),
            (WellKnown::Value, _) => self.json_value(node),
            (WellKnown::ListValue, Value::List(nodes)) => self.json_list(nodes),
            (WellKnown::Timestamp, Value::String(text)) => self.moment(scalar::timestamp(text), node),
            (WellKnown::Duration, Value::String(text)) => self.moment(scalar::duration(text), node),
            (WellKnown::FieldMask, Value::String(text)) => {
                for path in scalar::field_mask(text) {
                    wire::put_bytes(&mut self.out, 1, path.as_bytes());
                }
            }
            (WellKnown::Wrapper, Value::Map(_)) => return false,
            (WellKnown::Wrapper, Value::Null) => {}
            (WellKnown::Wrapper, _) => {
                if let Some(field) = message.field(1) {
                    self.value(field, node, false);
                }
            }
            (WellKnown::Timestamp | WellKnown::Duration, Value::Null | Value::Map(_)) => return false,
            (WellKnown::Timestamp | WellKnown::Duration, _) => self.expected("a string", node),
            (WellKnown::ListValue, Value::Null) => {}
            (WellKnown::ListValue, _) => self.json_list(std::slice::from_ref(node)),
            _ => return false,
        }
        true
    }

    /// Seconds and nanoseconds of a `Duration` or `Timestamp`.
    fn moment(&mut self, parsed: Result<(i64, i32), String>, node: &Node<'_>) {
        match parsed {
            Ok((seconds, nanos)) => {
                for (number, value) in [(1, seconds), (2, i64::from(nanos))] {
                    if value != 0 {
                        wire::put_key(&mut self.out, number, wire::VARINT);
                        wire::put_varint(&mut self.out, value.cast_unsigned());
                    }
                }
            }
            Err(reason) => self.error(node.at, reason),
        }
    }

    fn structure(&mut self, entries: &[Entry<'_>]) {
        for entry in entries {
            let nested = wire::begin(&mut self.out, 1);
            wire::put_bytes(&mut self.out, 1, entry.key.as_bytes());
            let value = wire::begin(&mut self.out, 2);
            self.json_value(&entry.node);
            wire::end(&mut self.out, value);
            wire::end(&mut self.out, nested);
        }
    }

    fn json_list(&mut self, nodes: &[Node<'_>]) {
        for node in nodes {
            let nested = wire::begin(&mut self.out, 1);
            self.json_value(node);
            wire::end(&mut self.out, nested);
        }
    }

    /// The content of a `google.protobuf.Value`.
    fn json_value(&mut self, node: &Node<'_>) {
        match &node.value {
            Value::Null => {
                wire::put_key(&mut self.out, value_field::NULL, wire::VARINT);
                wire::put_varint(&mut self.out, 0);
            }
            Value::Bool(value) => {
                wire::put_key(&mut self.out, value_field::BOOL, wire::VARINT);
                wire::put_varint(&mut self.out, u64::from(*value));
            }
            Value::Int(_) | Value::Double(_) | Value::Number(_) => {
                match scalar::scalar(Kind::Double, &node.value) {
                    Ok(scalar) => scalar.put(&mut self.out, value_field::NUMBER),
                    Err(reason) => self.error(node.at, reason),
                }
            }
            Value::String(text) => wire::put_bytes(&mut self.out, value_field::STRING, text.as_bytes()),
            Value::Bytes(bytes) => {
                let text = String::from_utf8_lossy(bytes);
                wire::put_bytes(&mut self.out, value_field::STRING, text.as_bytes());
            }
            Value::Map(entries) => {
                let nested = wire::begin(&mut self.out, value_field::STRUCT);
                self.structure(entries);
                wire::end(&mut self.out, nested);
            }
            Value::List(nodes) => {
                let nested = wire::begin(&mut self.out, value_field::LIST);
                self.json_list(nodes);
                wire::end(&mut self.out, nested);
            }
        }
    }

    /// An `Any`: an object with `@type`, and either the fields of that type or, for a well-known type, `value`.
    fn any(&mut self, entries: &[Entry<'_>], node: &Node<'_>) {
        let Some(type_entry) = entries.iter().rfind(|entry| entry.key == "@type") else {
            if !entries.is_empty() {
                self.error(node.at, "missing @type in Any is only allowed for an empty object");
            }
            return;
        };
        let Value::String(url) = &type_entry.node.value else {
            return self.expected("a string as @type", &type_entry.node);
        };
        if url.split_once('/').is_none_or(|(host, _)| host.is_empty()) {
            let reason = format!("@type must contain at least one / and a nonempty host; got: {url}");
            return self.error(type_entry.node.at, reason);
        }
        let Some(message) = Message::of_url(url) else {
            return self.error(type_entry.node.at, format!("could not find @type '{url}'"));
        };
        if message.well_known() == WellKnown::TypedStruct && self.typed_struct(entries) {
            return;
        }
        wire::put_bytes(&mut self.out, 1, url.as_bytes());
        let nested = wire::begin(&mut self.out, 2);
        match message.well_known() {
            WellKnown::No | WellKnown::Empty | WellKnown::TypedStruct => {
                self.fields(message, entries, |key| key == "@type");
            }
            _ => self.wrapped(message, entries),
        }
        wire::end(&mut self.out, nested);
    }

    /// Text format's `[type/url] { fields }` inside an `Any`; false if it is written by its own fields.
    fn expanded_any(&mut self, node: &Node<'_>) -> bool {
        let Value::Map(entries) = &node.value else { return false };
        let [Entry { key, at, node }] = entries.as_slice() else { return false };
        let Some(url) = key.strip_prefix('[').and_then(|key| key.strip_suffix(']')) else { return false };
        match Message::of_url(url) {
            None => self.error(*at, format!("could not find @type '{url}'")),
            Some(message) => {
                wire::put_bytes(&mut self.out, 1, url.as_bytes());
                let nested = wire::begin(&mut self.out, 2);
                self.message(message, node);
                wire::end(&mut self.out, nested);
            }
        }
        true
    }

    /// A well-known type inside an `Any`: its own form stands under `value`.
    fn wrapped(&mut self, message: Message, entries: &[Entry<'_>]) {
        for entry in entries {
            match entry.key.as_ref() {
                "@type" => {}
                "value" => self.message(message, &entry.node),
                _ => self.error(entry.at, "fields in a well-known-typed Any must be @type or value"),
            }
        }
    }

    /// A `TypedStruct` as an `Any` of the type that it names; false if that type is not known.
    fn typed_struct(&mut self, entries: &[Entry<'_>]) -> bool {
        let find = |names: [&str; 2]| {
            entries.iter().rfind(|entry| names.contains(&entry.key.as_ref())).map(|entry| &entry.node)
        };
        let Some(Node { value: Value::String(url), .. }) = find(["type_url", "typeUrl"]) else {
            return false;
        };
        let target = Message::of_url(url).filter(|message| {
            matches!(message.well_known(), WellKnown::No | WellKnown::Empty | WellKnown::TypedStruct)
        });
        let value = match find(["value", "value"]).map(|node| &node.value) {
            None | Some(Value::Null) => &[][..],
            Some(Value::Map(value)) => value,
            Some(_) => return false,
        };
        let Some(target) = target else { return false };
        if target.well_known() == WellKnown::TypedStruct {
            return self.typed_struct(value);
        }
        wire::put_bytes(&mut self.out, 1, url.as_bytes());
        let nested = wire::begin(&mut self.out, 2);
        self.fields(target, value, |_| false);
        wire::end(&mut self.out, nested);
        for entry in entries {
            if !["@type", "type_url", "typeUrl", "value"].contains(&entry.key.as_ref()) {
                self.error(entry.at, format!("no such field: '{}'", entry.key));
            }
        }
        true
    }
}
