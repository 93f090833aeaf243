//! Expressions in CEL as access logs have them, in text: filters (`extension_filter`) and commands (`%CEL(...)%`, `%TYPED_CEL(...)%`).

use integration::config::{HttpListener, file_log, indent};
use integration::differential::{Case, Setup};

use crate::cel::{FIELDS, PLAIN, ROUTES_METADATA};

/// Values of each type and form; a `~` says that digits vary.
const VALUES: &[(&str, &str)] = &[
    ("null", "null"),
    ("list", "[1, 'a', [true], {}]"),
    ("list_comma", "[1, 2,]"),
    ("map", "{1: 2, 'a': {'b': null},}"),
    ("type", "int"),
    ("uint", "1u"),
    ("hex", "0x1F"),
    ("hex_uint", "0xFFu"),
    ("least", "-9223372036854775808"),
    ("large", "1e100"),
    ("whole", "1.0"),
    ("point", ".5"),
    ("exponent", "12e-1"),
    ("rounded", "12345678.9"),
    ("small", "1e-7"),
    ("bytes", "b'a\\xff'"),
    ("bytes_octal", "b'\\101'"),
    ("text_octal", "'\\101'"),
    ("text_code", "'\\u00e9\\U0001F600\\x41'"),
    ("text_raw", "r'\\d'"),
    ("text_raw_quote", "r'''it's'''"),
    ("text_three", "'''a\"b'c'''"),
    ("text_escapes", "'\\a\\b\\f\\t\\v\\\\\\'\\\"\\?\\`'"),
    ("text_double", "\"it's\""),
    ("quotient", "1/0"),
    ("span", "duration('90061.5s')"),
    ("span_negative", "duration('-0.25s')"),
    ("span_zero", "duration('0s')"),
    ("span_hour", "duration('3600s')"),
    ("span_nanos", "duration('0.000000007s')"),
    ("time", "timestamp('2020-01-02T03:04:05.120Z')"),
    ("headers", "request.headers"),
    ("header", "request.headers['x-b']"),
    ("missing", "request.headers['x-missing']"),
    ("unknown", "nothing"),
    ("absolute", ".request.path"),
    ("remainder", "7 % 4"),
    ("negated", "!!true"),
    ("double_minus", "--1"),
    ("minus_field", "-size('ab')"),
    ("choice", "false ? 1 : true ? 2 : 3"),
    ("rows", "1 + 2 * 3 - 4 / 2 == 5 && true || false"),
    ("comparison", "1 < 2 == true"),
    ("within", "2 in [1, 2] && !('c' in {'a': 1})"),
    ("comment", "1 // one"),
    ("metadata", "xds.route_metadata.filter_metadata['of.route']"),
    ("dynamic_field", "metadata.filter_metadata"),
    ("root", "request"),
    ("root_within", "[request]"),
    ("grpc", "response.grpc_status"),
    ("code", "response.code"),
    ("details", "response.code_details"),
    ("flags", "response.flags"),
    ("cluster", "xds.cluster_name"),
    ("upstream", "upstream.address.startsWith('127.0.0.1:')"),
    ("size", "request.size"),
    ("response_type", "response.headers['content-type']"),
    ("has", "has(response.headers.date) && !has(response.headers.nope)"),
];

/// Messages, which are told as JSON.
const MESSAGES: &[(&str, &str)] = &[("message", "xds.route_metadata"), ("dynamic", "metadata")];

/// Filters: of one response in two, of none, of all.
const FILTERS: &[(&str, &str)] = &[
    ("code", "response.code == 200"),
    ("path", "request.path.startsWith('/other')"),
    ("number", "1"),
    ("failing", "request.headers['x-missing'] == 'a'"),
    ("plain_concat", "'a' + 'b' == 'ab'"),
];

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn format(command: &str, max: &str) -> String {
    // (That is refused here: there is a line about it in docs/differences.md.)
    let known = PLAIN.iter().enumerate().filter(|(_, text)| !text.starts_with("xds.node"));
    let plain = known.map(|(number, text)| (format!("e{number}"), *text));
    let messages = if command == "CEL" { &[] } else { MESSAGES };
    let values = VALUES.iter().chain(messages).map(|(name, text)| ((*name).to_owned(), *text));
    let members = plain
        .chain(values)
        .map(|(name, text)| format!("{name}: {}", quoted(&format!("%{command}({text}){max}%"))));
    let members: Vec<String> = members.collect();
    format!("log_format:\n  json_format:\n    s: \"%REQ(x-sentinel)%\"\n{}", indent(&members.join("\n"), 4))
}

fn filtered(expression: &str, config: &str) -> String {
    let filter = format!(
        "filter:\n  extension_filter:\n    name: cel\n    typed_config:\n      \"@type\": \
         type.googleapis.com/envoy.extensions.access_loggers.filters.cel.v3.ExpressionFilter\n      expression: {}\n{}",
        quoted(expression),
        indent(config, 6)
    );
    file_log(
        "log_format: {text_format_source: {inline_string: \"s=%REQ(x-sentinel)%|code=%RESPONSE_CODE%\\n\"}}",
    ) + &indent(&filter, 2)
}

pub(crate) fn setup() -> Setup {
    let routes = format!(
        "- match: {{prefix: /none}}\n  direct_response: {{status: 404}}\n- match: {{prefix: /}}\n  route: {{cluster: up}}\n  \
         metadata: {ROUTES_METADATA}\n"
    );
    let mark = file_log("log_format: {text_format_source: {inline_string: \"s=%REQ(x-sentinel)%|\\n\"}}");
    let log = |name: &str, logs: &str| {
        HttpListener::new(name, &routes)
            .options("generate_request_id: false")
            .logs(&format!("{logs}{mark}"))
            .yaml()
    };
    let mut listeners = vec![
        log("text", &file_log(&format("CEL", ""))),
        log("typed", &file_log(&format("TYPED_CEL", ""))),
        log("cut", &file_log(&format("TYPED_CEL", ":3"))),
        log("configured", &filtered("'a' + 'b' == 'ab'", "cel_config: {enable_string_concat: true}")),
    ];
    listeners.extend(FILTERS.iter().map(|(name, text)| log(name, &filtered(text, ""))));
    Setup::new("cel_text", listeners)
}

pub(crate) fn cases() -> Vec<Case> {
    let listeners =
        ["text", "typed", "cut", "configured"].into_iter().chain(FILTERS.iter().map(|(name, _)| *name));
    let both = listeners.flat_map(|listener| {
        [
            Case::get("CEL in text: a response", listener, "/a/b?x=1&y=2", FIELDS),
            Case::get("CEL in text: no host", listener, "/none", FIELDS),
        ]
    });
    both.collect()
}
