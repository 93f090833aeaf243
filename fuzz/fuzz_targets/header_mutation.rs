//! Header mutations of routes against a plain model: a list of names and values.
#![no_main]

use arbitrary::Arbitrary;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use libfuzzer_sys::fuzz_target;
use proxy_core::config::BuildCx;
use proxy_core::head::ResponseHead;
use proxy_engine::router::header_mutation::{HeaderMutations, MutationContext};
use xds_api::envoy::config::core::v3::header_value_option::HeaderAppendAction as Action;
use xds_api::envoy::config::core::v3::{HeaderValue as ProtoHeader, HeaderValueOption};

#[derive(Arbitrary, Debug)]
struct Input {
    headers: Vec<(u8, String)>,
    add: Vec<(u8, Value, u8, bool)>,
    remove: Vec<u8>,
    /// Formats nobody thought of, for the hunt of panics alone.
    odd: Vec<(String, String)>,
}

#[derive(Arbitrary, Debug)]
enum Value {
    Text(String),
    /// The first value of a header of the response, before the additions.
    Header(u8),
}

const NAMES: [&str; 4] = ["x-a", "x-b", "x-c", "x-d"];

fn name(number: u8) -> &'static str {
    NAMES[usize::from(number) % NAMES.len()]
}

type Fields = Vec<(&'static str, String)>;

fuzz_target!(|input: Input| {
    let clean = |text: &str| -> String { text.chars().filter(|char| (' '..='~').contains(char)).collect() };
    let fields: Fields = input.headers.iter().map(|(number, value)| (name(*number), clean(value))).collect();
    let add: Vec<HeaderValueOption> = input
        .add
        .iter()
        .map(|(number, value, action, keep)| {
            let value = match value {
                Value::Text(text) => clean(text).replace('%', "%%"),
                Value::Header(number) => format!("%RESP({})%", name(*number)),
            };
            option(name(*number), &value, i32::from(action % 4), *keep)
        })
        .collect();
    let remove: Vec<String> = input.remove.iter().map(|number| name(*number).to_owned()).collect();
    let result = apply(&add, &remove, &fields).expect("is valid");
    let expected = model(&input, &fields, clean);
    for name in NAMES {
        let of = |fields: &Fields| -> Vec<String> {
            fields.iter().filter(|(other, _)| *other == name).map(|(_, value)| value.clone()).collect()
        };
        let got: Vec<String> =
            result.get_all(name).iter().map(|value| value.to_str().expect("clean").to_owned()).collect();
        assert_eq!(got, of(&expected), "{name}");
    }
    let odd: Vec<HeaderValueOption> =
        input.odd.iter().map(|(name, value)| option(name, value, 0, false)).collect();
    let _ = apply(&odd, &[], &fields);
});

fn option(key: &str, value: &str, action: i32, keep_empty_value: bool) -> HeaderValueOption {
    let header = ProtoHeader { key: key.to_owned(), value: value.to_owned(), ..ProtoHeader::default() };
    HeaderValueOption {
        header: Some(header),
        append_action: action,
        keep_empty_value,
        ..HeaderValueOption::default()
    }
}

fn apply(add: &[HeaderValueOption], remove: &[String], fields: &Fields) -> Option<HeaderMap> {
    let env = outrigger_fuzz::env();
    let mutations = HeaderMutations::build_response(add, remove, &mut BuildCx::new(&env)).ok()?;
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        headers.append(HeaderName::from_static(name), HeaderValue::from_str(value).expect("clean"));
    }
    let mut response = ResponseHead { headers, ..ResponseHead::new(StatusCode::OK) };
    outrigger_fuzz::with_entry(|entry| {
        let context = MutationContext { request: entry.request, info: entry.info };
        mutations.apply_to_response(&mut response, context);
    });
    Some(response.headers)
}

/// Removals; then all values from what is left; then those that overwrite; then those that append.
fn model(input: &Input, fields: &Fields, clean: impl Fn(&str) -> String) -> Fields {
    let mut fields = fields.clone();
    fields.retain(|(known, _)| !input.remove.iter().any(|number| name(*number) == *known));
    let mut pending = Vec::new();
    for (number, value, action, keep) in &input.add {
        let key = name(*number);
        let exists = fields.iter().any(|(known, _)| *known == key);
        let action = Action::try_from(i32::from(action % 4)).expect("is one");
        let value = match value {
            Value::Text(text) => clean(text),
            Value::Header(number) => {
                let first = fields.iter().find(|(known, _)| *known == name(*number));
                first.map(|(_, value)| value.clone()).unwrap_or_default()
            }
        };
        let wanted = match action {
            Action::AppendIfExistsOrAdd | Action::OverwriteIfExistsOrAdd => true,
            Action::AddIfAbsent => !exists,
            Action::OverwriteIfExists => exists,
        };
        if wanted && (!value.is_empty() || *keep) {
            let overwrites = matches!(action, Action::OverwriteIfExists | Action::OverwriteIfExistsOrAdd);
            pending.push((key, value, overwrites));
        }
    }
    for (key, value, _) in pending.iter().filter(|(.., overwrites)| *overwrites) {
        fields.retain(|(known, _)| known != key);
        fields.push((key, value.clone()));
    }
    for (key, value, _) in pending.into_iter().filter(|(.., overwrites)| !overwrites) {
        fields.push((key, value));
    }
    fields
}
