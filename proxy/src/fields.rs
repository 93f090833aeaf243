//! What this version does with each field of the configuration, enforced: what cannot be honoured is refused when it is
//! set, what has no effect is reported, and nothing is accepted in silence.
//!
//! The tables stand next to the code that reads the messages; here they come together. `docs/configuration.md` is made
//! from them.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::OnceLock;

use proxy_core::config::{ConfigError, FieldUse, MessageFields};
use xds_api::Path;
use xds_api::check::{Visitor, walk};
use xds_api::schema::{Field, Kind, Message, WellKnown};

pub mod bootstrap;
pub mod guard;

const MANAGER: &str = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";

/// Every table.
pub fn tables() -> impl Iterator<Item = &'static MessageFields> {
    let own: [&'static [MessageFields]; 20] = [
        bootstrap::FIELDS,
        proxy_core::custom_tag::FIELDS,
        proxy_core::fields::FIELDS,
        proxy_core::format::FIELDS,
        proxy_core::header_mutation::FIELDS,
        proxy_core::log_filter::FIELDS,
        proxy_core::matcher::fields::FIELDS,
        proxy_core::matcher::response::FIELDS,
        proxy_core::matching::fields::FIELDS,
        proxy_core::rate_limit::FIELDS,
        proxy_core::retry::FIELDS,
        proxy_engine::http::fields::FIELDS,
        proxy_engine::listener::fields::FIELDS,
        proxy_engine::router::fields::FIELDS,
        proxy_engine::router::internal_redirect::FIELDS,
        proxy_engine::tcp::fields::FIELDS,
        proxy_engine::tls::fields::FIELDS,
        proxy_engine::upstream::fields::FIELDS,
        proxy_engine::upstream::health_discovery::FIELDS,
        proxy_engine::codec::fields::UPSTREAM,
    ];
    own.into_iter().chain(proxy_extensions::FIELDS.iter().copied()).flatten()
}

/// The tables that replace those of the same messages inside of a connection manager.
pub fn downstream_tables() -> impl Iterator<Item = &'static MessageFields> {
    proxy_engine::codec::fields::DOWNSTREAM.iter()
}

/// A field that is set and has no effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ignored {
    /// Where; if in several places, the first.
    pub path: String,
    /// Which.
    pub field: Field,
    /// Why it has none.
    pub reason: &'static str,
}

/// Finds fields that are set and not honoured, as a visitor of a walk.
#[derive(Debug, Default)]
pub struct Enforcer {
    /// What must be refused.
    pub errors: Vec<ConfigError>,
    /// What has no effect, each field once.
    pub ignored: Vec<Ignored>,
    reported: HashSet<Field>,
    unknown: BTreeSet<String>,
}

impl Visitor for Enforcer {
    fn field(&mut self, field: Field, path: &Path) {
        let mut outer: Vec<Field> = path.fields().collect();
        outer.pop();
        let mut in_manager = false;
        for ancestor in &outer {
            in_manager |= ancestor.message().full_name() == MANAGER;
            // (What is wrong with it was said where it begins.)
            if use_of(*ancestor, in_manager) != Some(FieldUse::Used) {
                return;
            }
        }
        match use_of(field, in_manager) {
            Some(FieldUse::Used) => {}
            Some(FieldUse::Ignored(reason)) => {
                if self.reported.insert(field) {
                    self.ignored.push(Ignored { path: path.to_string(), field, reason });
                }
            }
            Some(FieldUse::Rejected(_)) if is_directory_of_watched(field, &outer) => {}
            Some(FieldUse::Rejected(reason)) => {
                self.errors.push(ConfigError { path: path.to_string(), reason: reason.to_owned() });
            }
            // What an `Any` may hold, those who read it decide.
            None if outer.last().is_some_and(|outer| holds_any(*outer)) => {}
            None => {
                let path = path.to_string();
                let path = path.rsplit_once('.').map_or("", |(parent, _)| parent).to_owned();
                if self.unknown.insert(path.clone()) {
                    let reason = format!("{} is not supported by this version", field.message().full_name());
                    self.errors.push(ConfigError { path, reason });
                }
            }
        }
    }
}

/// What must be refused in a resource (errors, with paths), and what has no effect in it.
///
/// `bytes` is the resource as it came, of the type that `type_url` names. Whether it is valid is not looked at here:
/// see [`xds_api::check::check`].
pub fn enforce(type_url: &str, bytes: &[u8]) -> (Vec<ConfigError>, Vec<Ignored>) {
    let mut enforcer = Enforcer::default();
    walk(type_url, bytes, &mut enforcer);
    (enforcer.errors, enforcer.ignored)
}

/// Logs fields without effect: warnings, but for names and comments, which nobody expects to have one.
pub fn report(ignored: &[Ignored]) {
    for Ignored { path, field, reason } in ignored {
        if matches!(field.name(), "name" | "description") {
            tracing::debug!("'{path}' has no effect: {reason}");
        } else {
            tracing::warn!("'{path}' has no effect: {reason}");
        }
    }
}

/// What is done with a field; `None` if no table has its message.
fn use_of(field: Field, in_manager: bool) -> Option<FieldUse> {
    type Uses = HashMap<Field, FieldUse>;
    static USES: OnceLock<(Uses, Uses)> = OnceLock::new();
    let (everywhere, downstream) = USES.get_or_init(|| (by_field(tables()), by_field(downstream_tables())));
    let special = if in_manager { downstream.get(&field) } else { None };
    special.or_else(|| everywhere.get(&field)).copied()
}

/// Whether a field is the directory in which a file is watched, of a source whose file is.
fn is_directory_of_watched(field: Field, outer: &[Field]) -> bool {
    let is = |field: Field, (message, name): (&str, &str)| {
        field.message().full_name() == message && field.name() == name
    };
    let holder = outer.last().copied();
    is(field, ("envoy.config.core.v3.DataSource", "watched_directory"))
        && holder.is_some_and(|holder| proxy_engine::tls::fields::WATCHED.iter().any(|one| is(holder, *one)))
}

fn by_field(tables: impl Iterator<Item = &'static MessageFields>) -> HashMap<Field, FieldUse> {
    let mut uses = HashMap::new();
    for (message, fields) in tables {
        let Some(message) = Message::find(message) else { continue };
        for (name, field_use) in *fields {
            if let Some(field) = message.field_named(name) {
                uses.insert(field, *field_use);
            }
        }
    }
    uses
}

/// The message that a field holds, be it in a list or as the values of a map.
fn message_in(field: Field) -> Option<Message> {
    let field = field.map_entry().map_or(field, |(_, value)| value);
    match field.kind() {
        Kind::Message(message) => Some(message),
        _ => None,
    }
}

fn holds_any(field: Field) -> bool {
    message_in(field).is_some_and(|message| message.well_known() == WellKnown::Any)
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod unread;
