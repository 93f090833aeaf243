//! JSON access logs: whatever the format and the values, each line is one valid JSON document with the keys of the format.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use prost_types::value::Kind;
use prost_types::{ListValue, Struct, Value};
use proxy_core::config::BuildCx;
use proxy_core::format::LineFormat;

#[derive(Arbitrary, Debug)]
enum Node {
    Null,
    Bool(bool),
    Number(i32),
    Text(String),
    /// Operators that read what clients and servers send.
    Operator(u8),
    List(Vec<Node>),
    Object(Vec<(String, Node)>),
}

const OPERATORS: [&str; 12] = [
    "%REQ(X-B)%",
    "%REQ(X-A)% and %RESP(X-B)%",
    "%REQ(:PATH)%",
    "%DYNAMIC_METADATA(a:b)%",
    "%RESPONSE_CODE%",
    "%START_TIME(%s \" \\ %f)%",
    "%PROTOCOL%\"%%",
    "%DURATION%",
    "%RESP(X-MISSING?X-B):3%",
    "%DOWNSTREAM_REMOTE_ADDRESS%\u{1}\u{7f}",
    "%TRAILER(a)%",
    "%BYTES_SENT%%BYTES_RECEIVED%",
];

fuzz_target!(|input: (Vec<(String, Node)>, bool)| {
    let (fields, _) = input;
    let mut budget = 200;
    let proto = object(fields, &mut budget);
    let env = outrigger_fuzz::env();
    let mut cx = BuildCx::new(&env);
    let Ok(format) = LineFormat::build_json(&proto, &mut cx) else {
        assert!(cx.is_rejected());
        return;
    };
    let mut out = Vec::new();
    outrigger_fuzz::with_entry(|entry| format.render(entry, &mut out));
    let line = out.strip_suffix(b"\n").expect("a line");
    assert!(!line.contains(&b'\n'), "more than a line");
    let text = std::str::from_utf8(line).expect("UTF-8");
    let read: serde_json::Value =
        serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
    let read = read.as_object().expect("an object");
    assert!(proto.fields.keys().all(|key| read.contains_key(key)), "{text}");
});

fn object(fields: Vec<(String, Node)>, budget: &mut usize) -> Struct {
    let fields = fields.into_iter().map(|(key, node)| (key, value(node, budget)));
    Struct { fields: fields.collect() }
}

fn value(node: Node, budget: &mut usize) -> Value {
    *budget = budget.saturating_sub(1);
    let kind = match node {
        _ if *budget == 0 => Kind::NullValue(0),
        Node::Null => Kind::NullValue(0),
        Node::Bool(value) => Kind::BoolValue(value),
        Node::Number(number) => Kind::NumberValue(f64::from(number) / 8.0),
        Node::Text(text) => Kind::StringValue(text),
        Node::Operator(number) => {
            Kind::StringValue(OPERATORS[usize::from(number) % OPERATORS.len()].to_owned())
        }
        Node::List(nodes) => {
            let values = nodes.into_iter().map(|node| value(node, budget)).collect();
            Kind::ListValue(ListValue { values })
        }
        Node::Object(fields) => Kind::StructValue(object(fields, budget)),
    };
    Value { kind: Some(kind) }
}
