//! Rules over made-up requests, by example and beside an evaluator that is as plain as can be.

use std::sync::Arc;

use proptest::prelude::*;
use proxy_core::config::{BuildCx, ConfigError};
use proxy_core::stream_info::StreamInfo;
use proxy_core::tls::{Certificate, PeerCertificate, San, SanKind, TlsInfo, Usage};
use xds_api::envoy::config::rbac::v3 as proto;
use xds_api::read::{Options, Source, read};

use super::*;
use crate::testing::{Stream, connection_info, env, stream_info};

fn parse(yaml: &str) -> proto::Rbac {
    read(&Source::yaml("rules", yaml.as_bytes()), &Options::default()).expect(yaml).message
}

fn engine_of(rules: &proto::Rbac, mode: Mode, layer: Layer) -> Result<Engine, Vec<ConfigError>> {
    let env = env();
    let mut cx = BuildCx::new(&env);
    Engine::build(rules, (mode, ""), layer, &mut cx).map_err(|Rejected| cx.into_errors())
}

fn engine(yaml: &str) -> Engine {
    engine_of(&parse(yaml), Mode::Enforced, Layer::Http).unwrap_or_else(|errors| panic!("{errors:?}"))
}

fn refused(yaml: &str, layer: Layer) -> String {
    match engine_of(&parse(yaml), Mode::Enforced, layer) {
        Ok(_) => "accepted".to_owned(),
        Err(errors) => errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"),
    }
}

/// What an engine says of a request for `path` with these headers, and which policy decided.
fn said(engine: &Engine, path: &str, headers: &[(&'static str, &'static str)]) -> (bool, String) {
    let mut stream = Stream::new(headers);
    stream.request.path = path.into();
    let outcome = engine.decide(&Facts::of_request(&stream.info, &stream.request, None).with_path(None));
    (outcome.is_allowed, outcome.policy().unwrap_or_default().to_owned())
}

#[test]
fn the_first_policy_by_name_decides() {
    let engine = engine(
        "policies: {b: {permissions: [{header: {name: x-b}}], principals: [{any: true}]}, \
         a: {permissions: [{header: {name: x-a}}], principals: [{any: true}]}, \
         C: {permissions: [{header: {name: x-c}}], principals: [{header: {name: x-a}}]}}",
    );
    let policy = |headers| said(&engine, "/", headers).1;
    assert_eq!(policy(&[("x-a", ""), ("x-b", "")]), "a");
    assert_eq!(policy(&[("x-a", ""), ("x-c", "")]), "C");
    assert_eq!(policy(&[("x-b", ""), ("x-c", "")]), "b");
    assert_eq!(said(&engine, "/", &[("x-c", "")]), (false, String::new()));
}

#[test]
fn what_is_decided_is_told() {
    let rules = |action: &str| {
        parse(&format!(
            "action: {action}\npolicies: {{\"a b\": {{permissions: [{{url_path: {{path: {{exact: /a}}}}}}], principals: [{{any: true}}]}}}}"
        ))
    };
    let namespace: Arc<str> = "ns".into();
    let told = |action, mode, path: &str, default_prefix| {
        let engine = engine_of(&rules(action), mode, Layer::Http).ok().unwrap();
        let mut stream = Stream::new(&[]);
        stream.request.path = path.into();
        let outcome = engine.decide(&Facts::of_request(&stream.info, &stream.request, None).with_path(None));
        engine.tell(outcome, default_prefix, &namespace, &mut stream.info.metadata);
        engine.tell_logs(outcome, &mut stream.info.metadata);
        let text = |namespace: &str| {
            let Some(all) = stream.info.metadata.namespace(namespace) else { return String::new() };
            let fields = all.fields.iter().map(|(key, value)| match &value.kind {
                Some(Kind::StringValue(text)) => format!("{key}={text}"),
                Some(Kind::BoolValue(is)) => format!("{key}={is}"),
                other => panic!("{other:?}"),
            });
            fields.collect::<Vec<_>>().join(" ")
        };
        (text("ns"), text("envoy.common"), outcome.details().into_owned())
    };
    let (metadata, hint, details) = told("DENY", Mode::Enforced, "/a?q", "");
    assert_eq!(metadata, "enforced_effective_policy_id=a b enforced_engine_result=denied");
    assert_eq!((hint.as_str(), details.as_str()), ("", "rbac_access_denied_matched_policy[a_b]"));
    let (metadata, _, details) = told("ALLOW", Mode::Shadow, "/b", "p.");
    assert_eq!(metadata, "p.shadow_engine_result=denied");
    assert_eq!(details, "rbac_access_denied_matched_policy[none]");
    let (metadata, hint, _) = told("LOG", Mode::Enforced, "/b", "");
    assert_eq!(
        (metadata.as_str(), hint.as_str()),
        ("enforced_engine_result=allowed", "access_log_hint=false")
    );
    assert_eq!(told("LOG", Mode::Enforced, "/a", "").1, "access_log_hint=true");
    assert_eq!(told("LOG", Mode::Shadow, "/a", "").1, "");
}

#[test]
fn decisions_are_shared_not_copied() {
    let engine = engine("policies: {p: {permissions: [{any: true}], principals: [{any: true}]}}");
    let mut info = stream_info();
    let outcome = engine.decide(&Facts::of_connection(&info));
    engine.tell(outcome, "", &"ns".into(), &mut info.metadata);
    assert_eq!(Arc::strong_count(&outcome.metadata), 2);
}

fn peer(subject: &str, sans: &[(SanKind, &str)]) -> PeerCertificate {
    let sans = sans.iter().map(|(kind, value)| San { kind: kind.clone(), value: (*value).to_owned() });
    let content = Certificate {
        subject: subject.to_owned(),
        issuer: String::new(),
        subject_der: Vec::new(),
        common_name: None,
        serial: String::new(),
        not_before: 0,
        not_after: 0,
        public_key: Vec::new(),
        sans: sans.collect(),
        usage: Usage::default(),
        must_staple: false,
    };
    PeerCertificate { der: Vec::new(), sha1: [0; 20], sha256: [0; 32], content: Some(content) }
}

#[test]
fn names_of_the_peer_are_its_uris_its_names_of_dns_and_its_subject() {
    let as_peer = |yaml: &str, tls: Option<TlsInfo>| {
        let rules = format!("policies: {{p: {{permissions: [{{any: true}}], principals: [{yaml}]}}}}");
        let mut connection = connection_info();
        connection.tls = tls.map(Box::new);
        let info =
            StreamInfo::new(connection.into(), std::time::Instant::now(), std::time::SystemTime::now());
        engine(&rules).decide(&Facts::of_connection(&info)).is_allowed
    };
    let exact = |name: &str| format!("{{authenticated: {{principal_name: {{exact: \"{name}\"}}}}}}");
    let shown = || {
        let sans = [(SanKind::Dns, "b.test"), (SanKind::Uri, "spiffe://td/a"), (SanKind::Email, "a@b.test")];
        Some(TlsInfo { peer: [peer("CN=a", &sans)].into(), ..TlsInfo::default() })
    };
    for (name, holds) in
        [("spiffe://td/a", true), ("b.test", true), ("CN=a", true), ("a@b.test", false), ("", false)]
    {
        assert_eq!(as_peer(&exact(name), shown()), holds, "{name}");
        // The same where there are so many that they are looked up.
        let others = (0..20).map(|at| exact(&format!("spiffe://td/{at}")));
        let many: Vec<String> = others.chain([exact(name)]).collect();
        assert_eq!(as_peer(&many.join(", "), shown()), holds, "{name} of many");
    }
    let anybody = "{authenticated: {}}";
    assert!(as_peer(anybody, Some(TlsInfo::default())) && !as_peer(anybody, None));
    assert!(as_peer(&exact(""), Some(TlsInfo::default())) && !as_peer(&exact(""), None));
}

#[test]
fn what_cannot_be_is_refused_with_its_place() {
    let permission = |rule: &str| {
        format!("policies: {{p: {{permissions: [{{any: true}}, {rule}], principals: [{{any: true}}]}}}}")
    };
    for (rule, layer, expected) in [
        ("{any: false}", Layer::Http, "policies[\"p\"].permissions[1].any: value must equal true"),
        ("{}", Layer::Http, "policies[\"p\"].permissions[1]: rule: value is required"),
        (
            "{not_rule: {header: {name: a}}}",
            Layer::Network,
            "policies[\"p\"].permissions[1].not_rule.header: not supported by RBAC network filter",
        ),
        (
            "{destination_port_range: {start: 5, end: 5}}",
            Layer::Http,
            "policies[\"p\"].permissions[1].destination_port_range: range start 5 cannot be greater or equal than range end 5",
        ),
        (
            "{destination_port_range: {start: -1, end: 5}}",
            Layer::Http,
            "policies[\"p\"].permissions[1].destination_port_range: range start -1 is out of bounds",
        ),
        (
            "{destination_ip: {address_prefix: nowhere}}",
            Layer::Http,
            "policies[\"p\"].permissions[1].destination_ip: malformed IP address: nowhere",
        ),
    ] {
        assert_eq!(refused(&permission(rule), layer), expected);
    }
    assert_eq!(
        refused("audit_logging_options: {logger_configs: [{is_optional: true}, {}]}", Layer::Http),
        format!("audit_logging_options.logger_configs: {}", fields::AUDIT)
    );
    assert_eq!(
        refused("policies: {p: {principals: [{any: true}]}}", Layer::Http),
        "policies[\"p\"].permissions: value must contain at least 1 item(s)"
    );
    let conditional = "policies: {p: {permissions: [{any: true}], principals: [{any: true}], condition: {comprehension_expr: {}}}}";
    assert_eq!(
        refused(conditional, Layer::Http),
        "policies[\"p\"].condition: failed to create an expression: Comprehension support is disabled"
    );
}

/// A permission that the property test makes up; paths and values are digits.
#[derive(Clone, Debug)]
enum Plain {
    Any,
    All(Vec<Plain>),
    Either(Vec<Plain>),
    Not(Box<Plain>),
    Path(u8),
    PathPrefix(u8),
    /// All below a path.
    Below(u8),
    Header(u8),
    Port(u16),
}

impl Plain {
    fn any() -> impl Strategy<Value = Self> {
        let leaf = prop_oneof![
            Just(Self::Any),
            (0..12_u8).prop_map(Self::Path),
            (0..12_u8).prop_map(Self::PathPrefix),
            (0..12_u8).prop_map(Self::Below),
            (0..4_u8).prop_map(Self::Header),
            (79..82_u16).prop_map(Self::Port),
        ];
        leaf.prop_recursive(4, 40, 12, |inner| {
            let list = || proptest::collection::vec(inner.clone(), 1..12);
            prop_oneof![
                list().prop_map(Self::All),
                list().prop_map(Self::Either),
                inner.clone().prop_map(|one| Self::Not(Box::new(one))),
            ]
        })
    }

    fn yaml(&self) -> String {
        let list = |all: &[Self]| all.iter().map(Self::yaml).collect::<Vec<_>>().join(", ");
        match self {
            Self::Any => "{any: true}".to_owned(),
            Self::All(all) => format!("{{and_rules: {{rules: [{}]}}}}", list(all)),
            Self::Either(all) => format!("{{or_rules: {{rules: [{}]}}}}", list(all)),
            Self::Not(one) => format!("{{not_rule: {}}}", one.yaml()),
            Self::Path(path) => format!("{{url_path: {{path: {{exact: /{path}}}}}}}"),
            Self::PathPrefix(path) => format!("{{url_path: {{path: {{prefix: /{path}}}}}}}"),
            Self::Below(path) => format!("{{url_path: {{path: {{prefix: /{path}/}}}}}}"),
            Self::Header(value) => format!("{{header: {{name: x, string_match: {{exact: \"{value}\"}}}}}}"),
            Self::Port(port) => format!("{{destination_port: {port}}}"),
        }
    }

    fn holds(&self, path: &str, values: &[&str]) -> bool {
        match self {
            Self::Any => true,
            Self::All(all) => all.iter().filter(|one| !one.holds(path, values)).count() == 0,
            Self::Either(all) => all.iter().filter(|one| one.holds(path, values)).count() > 0,
            Self::Not(one) => !one.holds(path, values),
            Self::Path(of) => path == format!("/{of}"),
            Self::PathPrefix(of) => path.starts_with(&format!("/{of}")),
            Self::Below(of) => path.starts_with(&format!("/{of}/")),
            Self::Header(of) => values.contains(&of.to_string().as_str()),
            Self::Port(port) => *port == 80,
        }
    }
}

const VALUES: [&str; 4] = ["0", "1", "2", "3"];

proptest! {
    #[test]
    fn decides_as_a_plain_evaluator(
        policies in proptest::collection::vec(("[a-d]{1,2}", Plain::any(), Plain::any()), 0..9),
        deny in any::<bool>(),
        path in 0..13_u8,
        below in prop_oneof![Just(""), Just("/"), Just("/1")],
        query in any::<bool>(),
        values in proptest::collection::vec(0..4_usize, 0..3),
    ) {
        let named: std::collections::BTreeMap<&String, (&Plain, &Plain)> =
            policies.iter().map(|(name, may, also)| (name, (may, also))).collect();
        let yaml: Vec<String> = named
            .iter()
            .map(|(name, (may, also))| {
                let rules = format!("{{and_rules: {{rules: [{}, {}]}}}}", may.yaml(), also.yaml());
                format!("{name}: {{permissions: [{}, {rules}], principals: [{{any: true}}]}}", may.yaml())
            })
            .collect();
        let action = if deny { "DENY" } else { "ALLOW" };
        let engine = engine(&format!("action: {action}\npolicies: {{{}}}", yaml.join(", ")));
        let path = format!("/{path}{below}");
        let values: Vec<&'static str> = values.iter().map(|at| VALUES[*at]).collect();
        let headers: Vec<(&'static str, &'static str)> = values.iter().map(|value| ("x", *value)).collect();
        let decided = named.iter().find(|(_, (may, _))| may.holds(&path, &values)).map(|(name, _)| (*name).clone());
        let expected = (decided.is_some() != deny, decided.unwrap_or_default());
        let asked = if query { format!("{path}?/1") } else { path };
        let mut stream = Stream::new(&[]);
        for (name, value) in headers {
            stream.request.headers.append(name, value.parse().unwrap());
        }
        stream.request.path = asked.as_str().into();
        let outcome = engine.decide(&Facts::of_request(&stream.info, &stream.request, None).with_path(None));
        prop_assert_eq!((outcome.is_allowed, outcome.policy().unwrap_or_default().to_owned()), expected);
    }
}
