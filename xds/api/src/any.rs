//! `google.protobuf.Any`: which type it names, and its content, with both `TypedStruct`s seen through.

use std::borrow::Cow;

use crate::{
    error::{Error, Errors},
    read::{Options, Reader, UnknownFields},
    schema::{Message, WellKnown},
    tree::{Entry, MAX_DEPTH, Node, Position, Value as Tree},
    wire::{Fields, Value},
};

/// The full name of the type that a URL names: what follows its last slash.
pub fn type_name(type_url: &str) -> &str {
    type_url.rsplit_once('/').map_or(type_url, |(_, name)| name)
}

/// The message that a type URL, or a bare full name, names.
pub fn message_of(type_url: &str) -> Option<Message> {
    Message::find(type_name(type_url))
}

/// Whether the API has the type that a URL names.
pub fn type_exists(type_url: &str) -> bool {
    message_of(type_url).is_some()
}

/// The type URL of a message type, with the prefix that everyone uses.
pub fn type_url<M: prost::Name>() -> String {
    format!("type.googleapis.com/{}", M::full_name())
}

/// The content of an `Any` as a message of type `M`. If it is a `TypedStruct`, of the type that it names.
///
/// # Errors
/// If the `Any` is of another type, or its content cannot be decoded.
pub fn unpack<M: prost::Message + prost::Name + Default>(any: &prost_types::Any) -> Result<M, Errors> {
    let (url, bytes) = resolve(any)?;
    if type_name(&url) != M::full_name() {
        let reason = format!("unable to unpack as {}: got '{url}'", M::full_name());
        return Err(Error::new("", reason).into());
    }
    M::decode(bytes.as_ref()).map_err(|error| Error::new("", format!("cannot be decoded: {error}")).into())
}

/// The type URL and the bytes of an `Any`; of a `TypedStruct` whose type is known, those of that type.
///
/// # Errors
/// What is wrong with the content of a `TypedStruct`. (Fields that its type does not have are left to `check`.)
pub fn resolve(any: &prost_types::Any) -> Result<(Cow<'_, str>, Cow<'_, [u8]>), Errors> {
    if message_of(&any.type_url).is_some_and(|message| message.well_known() == WellKnown::TypedStruct)
        && let Some(converted) = convert(&any.value)
    {
        if !converted.errors.is_empty() {
            return Err(Errors(converted.errors));
        }
        return Ok((converted.type_url.into(), converted.bytes.into()));
    }
    Ok((Cow::Borrowed(&any.type_url), Cow::Borrowed(&any.value)))
}

/// The type URL and the value of an `Any` on the wire; `None` if it is malformed.
pub(crate) fn parts(any: &[u8]) -> Option<(&str, &[u8])> {
    let (mut url, mut content) = ("", &[][..]);
    for field in Fields::new(any) {
        match field.ok()? {
            (1, Value::Bytes(bytes)) => url = std::str::from_utf8(bytes).ok()?,
            (2, Value::Bytes(bytes)) => content = bytes,
            _ => {}
        }
    }
    Some((url, content))
}

/// A `TypedStruct` turned into the type that it names.
pub(crate) struct Converted {
    pub(crate) type_url: String,
    pub(crate) message: Message,
    pub(crate) bytes: Vec<u8>,
    pub(crate) errors: Vec<Error>,
    pub(crate) unknown_fields: Vec<Error>,
}

/// Converts a `TypedStruct` on the wire; `None` if its type is not known (or has no fields to put a `Struct` into).
pub(crate) fn convert(typed_struct: &[u8]) -> Option<Converted> {
    // (Both types number them so.)
    let (url, content) = parts(typed_struct)?;
    let message = Message::of_url(url)?;
    if !matches!(message.well_known(), WellKnown::No | WellKnown::Empty) {
        return None;
    }
    let mut converted = Converted {
        type_url: url.to_owned(),
        message,
        bytes: Vec::new(),
        errors: Vec::new(),
        unknown_fields: Vec::new(),
    };
    let Some(tree) = structure(content, 0) else {
        converted
            .errors
            .push(Error::new("", "the value of the TypedStruct is malformed or nested too deeply"));
        return Some(converted);
    };
    let mut reader = Reader::new(None);
    reader.message(message, &node(tree));
    match reader.finish(&Options { unknown_fields: UnknownFields::Allow }) {
        Ok(wire) => {
            converted.bytes = wire.bytes;
            converted.unknown_fields = wire.unknown_fields;
        }
        Err(errors) => converted.errors = errors.0,
    }
    Some(converted)
}

fn node(value: Tree<'_>) -> Node<'_> {
    Node { value, at: Position::default() }
}

/// A `Struct` on the wire as a tree.
fn structure(bytes: &[u8], depth: usize) -> Option<Tree<'_>> {
    if depth == MAX_DEPTH {
        return None;
    }
    let mut entries = Vec::new();
    for field in Fields::new(bytes) {
        if let (1, Value::Bytes(entry)) = field.ok()? {
            let (key, value) = parts(entry)?;
            entries.push(Entry { key: key.into(), at: Position::default(), node: json_value(value, depth)? });
        }
    }
    Some(Tree::Map(entries))
}

fn json_value(bytes: &[u8], depth: usize) -> Option<Node<'_>> {
    let mut tree = Tree::Null;
    for field in Fields::new(bytes) {
        tree = match field.ok()? {
            (2, Value::Fixed64(bits)) => Tree::Double(f64::from_bits(bits)),
            (3, Value::Bytes(text)) => Tree::String(std::str::from_utf8(text).ok()?.into()),
            (4, Value::Varint(value)) => Tree::Bool(value != 0),
            (5, Value::Bytes(inner)) => structure(inner, depth + 1)?,
            (6, Value::Bytes(list)) if depth + 1 < MAX_DEPTH => {
                let mut nodes = Vec::new();
                for field in Fields::new(list) {
                    if let (1, Value::Bytes(value)) = field.ok()? {
                        nodes.push(json_value(value, depth + 1)?);
                    }
                }
                Tree::List(nodes)
            }
            (6, _) => return None,
            _ => Tree::Null,
        };
    }
    Some(node(tree))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        envoy::config::core::v3::Node as EnvoyNode,
        read::{Source, to_wire},
    };

    fn typed_struct(yaml: &str) -> prost_types::Any {
        let message = Message::find("xds.type.v3.TypedStruct").unwrap();
        let wire = to_wire(message, &Source::yaml("", yaml.as_bytes()), &Options::default()).unwrap();
        prost_types::Any { type_url: "type.googleapis.com/xds.type.v3.TypedStruct".into(), value: wire.bytes }
    }

    #[test]
    fn an_any_is_unpacked_by_name() {
        let node = EnvoyNode { id: "n".into(), ..EnvoyNode::default() };
        for prefix in ["type.googleapis.com/", "example.org/", "a/b/"] {
            let any = prost_types::Any {
                type_url: format!("{prefix}envoy.config.core.v3.Node"),
                value: prost::Message::encode_to_vec(&node),
            };
            assert_eq!(unpack::<EnvoyNode>(&any), Ok(node.clone()));
            assert!(unpack::<crate::envoy::config::core::v3::Locality>(&any).is_err());
        }
        assert_eq!(type_url::<EnvoyNode>(), "type.googleapis.com/envoy.config.core.v3.Node");
        assert!(type_exists("type.googleapis.com/envoy.config.core.v3.Node"));
        assert!(!type_exists("type.googleapis.com/envoy.config.core.v2.Node"));
    }

    #[test]
    fn typed_structs_are_seen_through() {
        let any = typed_struct(
            "{type_url: type.googleapis.com/envoy.config.core.v3.Node, \
             value: {id: x, userAgentName: u, locality: {zone: z}, metadata: {a: [1, true, null]}}}",
        );
        let node = unpack::<EnvoyNode>(&any).unwrap();
        assert_eq!((node.id.as_str(), node.user_agent_name.as_str()), ("x", "u"));
        assert_eq!(node.locality.unwrap().zone, "z");
        let bad = typed_struct("{type_url: a/envoy.config.core.v3.Node, value: {id: 5, locality: x}}");
        let errors = unpack::<EnvoyNode>(&bad).unwrap_err();
        assert_eq!(
            errors.to_string(),
            "id: expected a string, got a number\nlocality: expected an object, got a string"
        );
        let unknown = typed_struct("{type_url: a/no.such.Type, value: {id: 5}}");
        assert_eq!(resolve(&unknown).unwrap().0, unknown.type_url);
    }

    #[test]
    fn hostile_structs_are_bounded() {
        let mut value = vec![];
        for _ in 0..10_000 {
            let mut outer = vec![];
            crate::wire::put_bytes(&mut outer, 6, &{
                let mut list = vec![];
                crate::wire::put_bytes(&mut list, 1, &value);
                list
            });
            value = outer;
            if value.len() > 100_000 {
                break;
            }
        }
        let mut any = vec![];
        crate::wire::put_bytes(&mut any, 1, b"a/envoy.config.core.v3.Node");
        crate::wire::put_bytes(&mut any, 2, &{
            let mut entry = vec![];
            crate::wire::put_bytes(&mut entry, 1, &{
                let mut pair = vec![];
                crate::wire::put_bytes(&mut pair, 1, b"metadata");
                crate::wire::put_bytes(&mut pair, 2, &value);
                pair
            });
            entry
        });
        assert_eq!(convert(&any).unwrap().errors.len(), 1);
    }
}
