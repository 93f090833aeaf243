use super::*;

fn show(value: &Value<'_>) -> String {
    match value {
        Value::Null => "null".into(),
        Value::Bool(value) => value.to_string(),
        Value::Int(value) => value.to_string(),
        Value::String(value) => format!("{value:?}"),
        Value::List(nodes) => {
            format!("[{}]", nodes.iter().map(|n| show(&n.value)).collect::<Vec<_>>().join(","))
        }
        Value::Map(entries) => {
            let entries: Vec<_> =
                entries.iter().map(|e| format!("{}:{}", e.key, show(&e.node.value))).collect();
            format!("{{{}}}", entries.join(","))
        }
        other => format!("{other:?}"),
    }
}

fn read(text: &str) -> String {
    match parse(text) {
        Ok(node) => show(&node.value),
        Err(error) => format!("! {error}"),
    }
}

/// Each row is what Envoy 1.40 made of `node: {metadata: {x: <scalar>}}`.
#[test]
fn scalars_are_typed_as_envoy_types_them() {
    for (scalar, expected) in [
        ("on", "true"),
        ("On", "true"),
        ("ON", "true"),
        ("oN", "\"oN\""),
        ("off", "false"),
        ("y", "true"),
        ("Y", "true"),
        ("n", "false"),
        ("yes", "true"),
        ("Yes", "true"),
        ("no", "false"),
        ("TRUE", "true"),
        ("True", "true"),
        ("false", "false"),
        ("~", "null"),
        ("null", "null"),
        ("Null", "null"),
        ("NULL", "null"),
        ("", "null"),
        ("\"null\"", "\"null\""),
        ("'y'", "\"y\""),
        ("\"1\"", "\"1\""),
        ("0x10", "16"),
        ("0X10", "16"),
        ("-0x10", "-16"),
        ("0o17", "\"0o17\""),
        ("017", "15"),
        ("010", "8"),
        ("08", "\"08\""),
        ("1_000", "\"1_000\""),
        ("1.5", "\"1.5\""),
        ("1.", "\"1.\""),
        (".5", "\".5\""),
        ("1e3", "\"1e3\""),
        ("-1", "-1"),
        ("+1", "1"),
        ("+1.5", "\"+1.5\""),
        ("-0", "0"),
        ("0", "0"),
        ("2147483647", "2147483647"),
        ("2147483648", "\"2147483648\""),
        ("-2147483648", "-2147483648"),
        ("-2147483649", "\"-2147483649\""),
        ("0x80000000", "\"2147483648\""),
        ("100000000000000000000", "\"100000000000000000000\""),
        (".nan", "\".nan\""),
        (".inf", "\".inf\""),
        ("0b11", "\"0b11\""),
        ("1:30", "\"1:30\""),
        ("!!str 5", "5"),
        ("!!int \"5\"", "5"),
        ("!foo 5", "5"),
        ("!!str on", "true"),
        ("!!bool \"yes\"", "true"),
        ("!!null x", "\"x\""),
        ("! 5", "\"5\""),
        ("! on", "\"on\""),
        ("\"a\\tb\"", "\"a\\tb\""),
        ("[]", "[]"),
        ("{}", "{}"),
    ] {
        assert_eq!(read(&format!("x: {scalar}")), format!("{{x:{expected}}}"), "{scalar}");
        assert_eq!(read(&format!("{{x: {scalar}}}")), format!("{{x:{expected}}}"), "{scalar} in a flow map");
    }
    assert_eq!(read("x: |\n  5\n"), "{x:\"5\\n\"}");
    assert_eq!(read("x: >-\n  on\n"), "{x:\"on\"}");
}

#[test]
fn keys_are_text() {
    assert_eq!(read("{1: a, on: b, ~: c, 1.5: d}"), "{1:\"a\",on:\"b\",null:\"c\",1.5:\"d\"}");
    assert_eq!(read("{[1]: a}"), "! 1:2: a key must be a scalar");
}

#[test]
fn the_last_of_equal_keys_wins() {
    assert_eq!(read("a: 1\nb: 2\na: 3\n"), "{b:2,a:3}");
}

#[test]
fn only_the_first_document_counts() {
    assert_eq!(read("a: 1\n---\nb: [\n"), "{a:1}");
    assert_eq!(read("---\na: 1\n...\n"), "{a:1}");
    for nothing in ["", "# x", "---\n", "null"] {
        assert_eq!(read(nothing), "null");
    }
}

#[test]
fn anchors_aliases_and_their_holders() {
    assert_eq!(read("!ignore x: &a {b: 1}\nc: *a\nd: *a\n"), "{c:{b:1},d:{b:1}}");
    assert_eq!(read("a: &k v\n*k : 1\n"), "{a:\"v\",v:1}");
    assert_eq!(read("&k a: 1\nb: *k\n"), "{a:1,b:\"a\"}");
    assert_eq!(read("x: &a {b: 1}\ny:\n  <<: *a\n"), "{x:{b:1},y:{<<:{b:1}}}");
    assert!(read("a: *b\n").starts_with("! 1:4: not YAML"), "{}", read("a: *b\n"));
    assert!(read("a: &a [*a]\n").starts_with("! "));
}

#[test]
fn json_is_yaml() {
    assert_eq!(
        read("{\"a\": [1, true, null, \"x\"],\n\t\"b\": {\"c\": 1.5,},}\n"),
        "{a:[1,true,null,\"x\"],b:{c:\"1.5\"}}"
    );
    assert_eq!(read("\u{feff}a: b"), "{a:\"b\"}");
}

#[test]
fn positions_are_those_of_the_values() {
    let node = parse("a:\n  - b: 1\n    c: x\n").unwrap();
    let Value::Map(entries) = &node.value else { panic!() };
    let Value::List(nodes) = &entries[0].node.value else { panic!() };
    let Value::Map(inner) = &nodes[0].value else { panic!() };
    assert_eq!(inner[1].at, Position { line: 3, column: 5 });
    assert_eq!(inner[1].node.at, Position { line: 3, column: 8 });
    let error = parse("a: 1\n b: 2\n").unwrap_err();
    assert_eq!(error.position.map(|(line, _)| line), Some(2), "{error}");
}

#[test]
fn hostile_texts_are_bounded() {
    for text in ["[".repeat(100_000), "- ".repeat(100_000), "{a: ".repeat(100_000)] {
        assert!(read(&text).starts_with("! "));
    }
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..30 {
        let alias = format!("*a{}", level - 1);
        bomb += &format!("a{level}: &a{level} [{}]\n", vec![alias; 10].join(", "));
    }
    assert!(read(&bomb).contains("repeat more than"), "{}", read(&bomb));
    let deep =
        format!("a: &a {}1{}\nb: {}*a{}\n", "[".repeat(60), "]".repeat(60), "[".repeat(60), "]".repeat(60));
    assert!(read(&deep).contains("nested too deeply"));
}
