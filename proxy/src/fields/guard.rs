//! Every resource that is delivered, held to the API and to what this version honours, and what is counted of it.
//!
//! Unknown fields follow the command line as in Envoy: counted and logged once each (the default), refused with
//! `--reject-unknown-dynamic-fields`, or passed over with `--ignore-unknown-dynamic-fields`. Fields without effect are
//! logged and counted once for the process, those of the bootstrap apart from those that were delivered.
//! Deprecated fields need the consent of the runtime where Envoy asks for it.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use proxy_core::config::{ConfigError, Findings, ResourceCheck};
use proxy_core::runtime::Runtime;
use proxy_core::stats::groups::{RuntimeStats, ServerStats};
use proxy_core::stats::{Registry, Shared};
use xds_api::Error;
use xds_api::check::walk;
use xds_api::read::Deprecated;
use xds_api::schema::Field;

use super::{Enforcer, Ignored, report};

/// What to do with fields that the API does not have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UnknownFields {
    /// Count and log them.
    #[default]
    Count,
    /// Refuse what has them.
    Reject,
    /// Say nothing.
    Ignore,
}

/// Prefix of the runtime keys that allow, or forbid, what is deprecated.
pub const DEPRECATED: &str = "envoy.deprecated_features:";

/// See the module above. One for the process.
pub struct FieldGuard {
    unknown_fields: UnknownFields,
    log_deprecated: bool,
    runtime: Arc<Runtime>,
    server: Shared<ServerStats>,
    features: Shared<RuntimeStats>,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    ignored_static: HashSet<Field>,
    ignored_dynamic: HashSet<Field>,
    unknown: HashSet<String>,
}

impl FieldGuard {
    /// A guard that has seen nothing yet.
    pub fn new(
        unknown_fields: UnknownFields,
        log_deprecated: bool,
        runtime: &Arc<Runtime>,
        stats: &Arc<Registry>,
    ) -> Self {
        Self {
            unknown_fields,
            log_deprecated,
            runtime: runtime.clone(),
            server: stats.scope("server").shared(),
            features: stats.scope("runtime").shared(),
            seen: Mutex::default(),
        }
    }

    /// Takes note of what was found in the bootstrap, which was checked before there was a guard.
    pub fn bootstrap(&self, ignored: &[Ignored], unknown: &[Error], deprecated: &[Deprecated]) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        for one in ignored {
            if seen.ignored_static.insert(one.field) {
                self.server.static_ignored_fields.inc();
            }
        }
        drop(seen);
        report(ignored);
        for description in by_message(unknown) {
            self.server.static_unknown_fields.inc();
            tracing::warn!("unknown field in the bootstrap: {description}");
        }
        self.note_deprecated(deprecated);
    }

    fn note_ignored(&self, ignored: Vec<Ignored>) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let mut fresh = Vec::new();
        for one in ignored {
            if seen.ignored_dynamic.insert(one.field) {
                self.server.dynamic_ignored_fields.inc();
                if !seen.ignored_static.contains(&one.field) {
                    fresh.push(one);
                }
            }
        }
        drop(seen);
        report(&fresh);
    }

    fn note_unknown(&self, unknown: &[Error]) {
        for description in by_message(unknown) {
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            // (By type and number, not by place; so many are never there but by malice.)
            let what = description.split_once(": ").map_or(&*description, |(_, what)| what).to_owned();
            if seen.unknown.len() < MOST_UNKNOWN && seen.unknown.insert(what) {
                self.server.dynamic_unknown_fields.inc();
                tracing::warn!("unknown field in dynamic configuration: {description}");
            }
        }
    }

    fn note_deprecated(&self, deprecated: &[Deprecated]) {
        for one in deprecated {
            self.features.deprecated_feature_use.inc();
            self.features.deprecated_feature_seen_since_process_start.add(1);
            if self.log_deprecated {
                tracing::warn!("'{}' uses the deprecated '{}'", one.path, one.name);
            }
        }
    }
}

/// Different unknown fields that are remembered; a peer could invent any number.
const MOST_UNKNOWN: usize = 4096;

impl ResourceCheck for FieldGuard {
    fn check(&self, type_url: &str, bytes: &[u8]) -> Findings {
        let mut enforcer = Enforcer::default();
        let found = walk(type_url, bytes, &mut enforcer);
        let mut invalid = found.errors;
        match self.unknown_fields {
            UnknownFields::Reject => invalid.extend(found.unknown_fields),
            UnknownFields::Count => self.note_unknown(&found.unknown_fields),
            UnknownFields::Ignore => {}
        }
        let (allowed, forbidden): (Vec<_>, Vec<_>) =
            found.deprecated.into_iter().partition(|one| is_allowed(one, |key| self.runtime.value(key)));
        invalid.extend(forbidden.iter().map(forbids));
        self.note_deprecated(&allowed);
        self.note_ignored(enforcer.ignored);
        Findings { invalid: invalid.into_iter().map(ConfigError::from).collect(), refused: enforcer.errors }
    }
}

/// Whether a deprecated field or value may be used; `runtime` gives the value of a runtime key.
pub fn is_allowed(deprecated: &Deprecated, runtime: impl Fn(&str) -> Option<String>) -> bool {
    let flag = |key: &str| match runtime(key) {
        Some(value) if value.eq_ignore_ascii_case("true") => Some(true),
        Some(value) if value.eq_ignore_ascii_case("false") => Some(false),
        _ => None,
    };
    let all = if deprecated.disallowed { "envoy.features.enable_all_deprecated_features" } else { "" };
    flag(&format!("{DEPRECATED}{}", deprecated.name)).or_else(|| flag(all)).unwrap_or(!deprecated.disallowed)
}

/// What is said about a deprecated field or value that may not be used.
pub fn forbids(deprecated: &Deprecated) -> Error {
    let Deprecated { path, name, .. } = deprecated;
    let reason =
        format!("deprecated '{name}' is disallowed by default; the runtime key {DEPRECATED}{name} allows it");
    Error::new(path.as_str(), reason)
}

/// One text for each message that has unknown fields: `path: reason, reason`.
fn by_message(unknown: &[Error]) -> Vec<String> {
    let mut messages: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for error in unknown {
        let parent = error.path.rsplit_once('.').map_or("", |(parent, _)| parent);
        messages.entry(parent).or_default().push(&error.reason);
    }
    messages.into_iter().map(|(path, reasons)| format!("{path}: {}", reasons.join(", "))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message;
    use proxy_core::runtime::RuntimeLayer;
    use xds_api::envoy::config::cluster::v3::Cluster;

    const CLUSTER: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";

    fn guard(unknown_fields: UnknownFields, runtime: &[(&str, &str)]) -> (FieldGuard, Shared<ServerStats>) {
        let stats = Registry::new(1);
        let values = runtime.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let layer = RuntimeLayer { values, ..RuntimeLayer::default() };
        let runtime = Arc::new(Runtime::new(vec![layer]));
        let guard = FieldGuard::new(unknown_fields, true, &runtime, &stats);
        (guard, stats.scope("server").shared())
    }

    fn cluster(name: &str, end: &[u8]) -> Vec<u8> {
        let mut bytes = Cluster { name: name.to_owned(), ..Cluster::default() }.encode_to_vec();
        bytes.extend_from_slice(end);
        bytes
    }

    /// Fields 1500 and 1501, numbers that the message does not have.
    const UNKNOWN: &[u8] = &[0xe0, 0x5d, 1, 0xe8, 0x5d, 1];

    #[test]
    fn unknown_fields_follow_the_command_line() {
        let (count, stats) = guard(UnknownFields::Count, &[]);
        for name in ["a", "b"] {
            assert_eq!(count.check(CLUSTER, &cluster(name, UNKNOWN)), Findings::default());
        }
        assert_eq!(stats.dynamic_unknown_fields.value(), 1);

        let (ignore, stats) = guard(UnknownFields::Ignore, &[]);
        assert_eq!(ignore.check(CLUSTER, &cluster("a", UNKNOWN)), Findings::default());
        assert_eq!(stats.dynamic_unknown_fields.value(), 0);

        let (reject, _) = guard(UnknownFields::Reject, &[]);
        let invalid = reject.check(CLUSTER, &cluster("a", UNKNOWN)).invalid;
        let paths: Vec<&str> = invalid.iter().map(|error| error.path.as_str()).collect();
        assert_eq!(paths, ["1500", "1501"]);
    }

    #[test]
    fn a_field_without_effect_counts_once() {
        let (guard, stats) = guard(UnknownFields::Count, &[]);
        let cluster = Cluster {
            name: "a".to_owned(),
            lrs_report_endpoint_metrics: vec!["a".to_owned()],
            ..Cluster::default()
        };
        for _ in 0..2 {
            assert_eq!(guard.check(CLUSTER, &cluster.encode_to_vec()), Findings::default());
        }
        assert_eq!(stats.dynamic_ignored_fields.value(), 1);
    }

    #[test]
    fn what_is_forbidden_needs_the_consent_of_the_runtime() {
        let name = "envoy.config.listener.v3.Listener.hidden_envoy_deprecated_use_original_dst";
        let deprecated = |disallowed| Deprecated { path: "x".to_owned(), name: name.to_owned(), disallowed };
        let none = |_: &str| None;
        assert!(is_allowed(&deprecated(false), none));
        assert!(!is_allowed(&deprecated(true), none));
        let key = format!("{DEPRECATED}{name}");
        assert!(is_allowed(&deprecated(true), |asked| (asked == key).then(|| "true".to_owned())));
        assert!(!is_allowed(&deprecated(false), |asked| (asked == key).then(|| "false".to_owned())));
    }
}
