//! Configurations of real control planes: read here and by `prost-reflect`, they must give the same message, and the
//! checker must say what Envoy says.

#![allow(clippy::unwrap_used, reason = "this is a test, helpers included")]

use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};
use xds_api::{
    check::check,
    read::{Options, Source, to_wire},
    schema::Message,
    write::{JsonOptions, Secrets, to_json},
};

struct Golden {
    from: String,
    type_name: String,
    accepted: bool,
    resource: String,
}

fn goldens() -> Vec<Golden> {
    let parse = |line: &str| {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        Golden {
            from: line["from"].as_str().unwrap().to_owned(),
            type_name: line["type"].as_str().unwrap().to_owned(),
            accepted: line["accepted"].as_bool().unwrap(),
            resource: line["resource"].to_string(),
        }
    };
    include_str!("data/goldens.jsonl").lines().map(parse).collect()
}

fn pool() -> DescriptorPool {
    DescriptorPool::decode(&include_bytes!("../descriptors/envoy-1.40.binpb")[..]).unwrap()
}

#[test]
fn the_reader_agrees_with_prost_reflect() {
    let pool = pool();
    let mut compared = 0;
    for golden in goldens() {
        let message = Message::find(&golden.type_name).unwrap();
        let json =
            Source { format: xds_api::read::Format::Json, ..Source::yaml("", golden.resource.as_bytes()) };
        let ours = to_wire(message, &json, &Options::default());
        let descriptor = pool.get_message_by_name(&golden.type_name).unwrap();
        let mut deserializer = serde_json::Deserializer::from_str(&golden.resource);
        let theirs = DynamicMessage::deserialize(descriptor.clone(), &mut deserializer);
        assert_eq!(ours.is_ok(), theirs.is_ok(), "{}: {ours:?}\n{theirs:?}", golden.from);
        let (Ok(ours), Ok(theirs)) = (ours, theirs) else { continue };
        if golden.resource.contains("TypedStruct") {
            continue;
        }
        // (As JSON: maps and the content of an Any have no fixed order on the wire.)
        let ours = DynamicMessage::decode(descriptor, &ours.bytes[..]).unwrap();
        let json = |message| serde_json::to_value::<DynamicMessage>(message).unwrap();
        assert_eq!(json(ours), json(theirs), "{}", golden.from);
        compared += 1;
    }
    assert!(compared >= 20, "{compared}");
}

#[test]
fn yaml_gives_the_same_message_as_json() {
    let mut compared = 0;
    for golden in goldens() {
        let message = Message::find(&golden.type_name).unwrap();
        let yaml = Source::yaml("", golden.resource.as_bytes());
        let json = Source { format: xds_api::read::Format::Json, ..yaml };
        let read = |source| to_wire(message, source, &Options::default()).map(|wire| wire.bytes);
        // (Envoy makes a fraction or a long integer in YAML a string, which only shows in a Struct.)
        if !golden.resource.contains("metadata\"") {
            assert!(
                read(&yaml).map_err(|e| e.0.len()) == read(&json).map_err(|e| e.0.len()),
                "{}",
                golden.from
            );
            compared += 1;
        }
    }
    assert!(compared >= 15, "{compared}");
}

#[test]
fn the_checker_agrees_with_envoy() {
    for golden in goldens() {
        let message = Message::find(&golden.type_name).unwrap();
        let source = Source::yaml("", golden.resource.as_bytes());
        let accepted = match to_wire(message, &source, &Options::default()) {
            Err(_) => false,
            Ok(wire) => {
                let report = check(&golden.type_name, &wire.bytes);
                assert_eq!(report.unknown_fields, []);
                report.errors.is_empty()
            }
        };
        assert_eq!(accepted, golden.accepted, "{}", golden.from);
    }
}

#[test]
fn the_writer_agrees_with_prost_reflect() {
    let pool = pool();
    for golden in goldens() {
        let message = Message::find(&golden.type_name).unwrap();
        let Ok(wire) = to_wire(message, &Source::yaml("", golden.resource.as_bytes()), &Options::default())
        else {
            continue;
        };
        let mut ours = String::new();
        let options = JsonOptions { secrets: Secrets::Show, ..JsonOptions::default() };
        to_json(&golden.type_name, &wire.bytes, &options, &mut ours).unwrap();
        let descriptor = pool.get_message_by_name(&golden.type_name).unwrap();
        let theirs = DynamicMessage::decode(descriptor, &wire.bytes[..]).unwrap();
        let options = SerializeOptions::new().use_proto_field_name(true);
        let theirs = theirs.serialize_with_options(serde_json::value::Serializer, &options).unwrap();
        let ours: serde_json::Value = serde_json::from_str(&ours).unwrap();
        assert!(as_doubles(ours) == as_doubles(theirs), "{}", golden.from);
    }
}

/// A `Struct` has no integers, which the two print differently.
fn as_doubles(value: serde_json::Value) -> serde_json::Value {
    use serde_json::Value;
    match value {
        Value::Number(number) => number.as_f64().into(),
        Value::Array(values) => values.into_iter().map(as_doubles).collect(),
        Value::Object(fields) => fields.into_iter().map(|(key, value)| (key, as_doubles(value))).collect(),
        other => other,
    }
}
