use std::fmt::Write;

use xds_api::read::{Options, Source, to_wire};
use xds_api::schema::fields_of;

use super::*;

const BOOTSTRAP: &str = "type.googleapis.com/envoy.config.bootstrap.v3.Bootstrap";

fn enforce_yaml(text: &str) -> (Vec<String>, Vec<String>) {
    let message = Message::find("envoy.config.bootstrap.v3.Bootstrap").unwrap();
    let wire = to_wire(message, &Source::yaml("t.yaml", text.as_bytes()), &Options::default()).unwrap();
    let (errors, ignored) = enforce(BOOTSTRAP, &wire.bytes);
    (
        errors.iter().map(ToString::to_string).collect(),
        ignored.into_iter().map(|ignored| ignored.path).collect(),
    )
}

#[test]
fn every_table_covers_its_message() {
    for tables in [tables().collect::<Vec<_>>(), downstream_tables().collect()] {
        let mut seen = HashMap::new();
        for (message, fields) in tables {
            // (Those who share a message may each have its table.)
            let agreed = *seen.entry(*message).or_insert(*fields);
            assert_eq!(agreed, *fields, "{message} has two tables that differ");
            let mut listed: Vec<&str> = fields.iter().map(|(field, _)| *field).collect();
            let mut wanted: Vec<&str> =
                fields_of(message).unwrap_or_else(|| panic!("no message {message}")).collect();
            listed.sort_unstable();
            wanted.sort_unstable();
            assert_eq!(listed, wanted, "{message}");
        }
    }
}

#[test]
fn what_a_used_field_holds_has_a_table() {
    let known: BTreeSet<&str> = tables().map(|(message, _)| *message).collect();
    let mut missing = String::new();
    for (name, fields) in tables() {
        let message = Message::find(name).unwrap();
        for (field, _) in fields.iter().filter(|(_, field_use)| *field_use == FieldUse::Used) {
            let Some(inner) = message_in(message.field_named(field).unwrap()) else { continue };
            if inner.well_known() == WellKnown::No && !known.contains(inner.full_name()) {
                let _ = writeln!(missing, "{name}.{field}: {}", inner.full_name());
            }
        }
    }
    assert!(missing.is_empty(), "messages without a table:\n{missing}");
}

#[test]
fn every_extension_has_a_table() {
    let known: BTreeSet<&str> = tables().map(|(message, _)| *message).collect();
    let all = proxy_extensions::extensions();
    let messages = (all.http_filters.iter().map(|one| one.descriptor().message))
        .chain(all.network_filters.iter().map(|one| one.descriptor().message))
        .chain(all.upstream_network_filters.iter().map(|one| one.descriptor().message))
        .chain(all.listener_filters.iter().map(|one| one.descriptor().message))
        .chain(all.access_logs.iter().map(|one| one.descriptor().message))
        .chain(all.stats_sinks.iter().map(|one| one.descriptor().message))
        .chain(all.tracers.iter().map(|one| one.descriptor().message));
    for message in messages {
        assert!(known.contains(message), "{message}");
    }
}

#[test]
fn what_is_not_honoured_is_refused_where_it_is_set() {
    let (errors, ignored) = enforce_yaml(
        r#"
enable_worker_cpu_affinity: true
flags_path: /flags
static_resources:
  clusters:
  - name: a
    common_http_protocol_options: {max_connection_duration_jitter: {value: 5}}
  listeners:
  - name: l
    filter_chains:
    - filters:
      - name: hcm
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          common_http_protocol_options: {max_connection_duration_jitter: {value: 5}}
"#,
    );
    assert_eq!(
        errors,
        [
            "enable_worker_cpu_affinity: not available",
            "static_resources.listeners[0].filter_chains[0].filters[0].typed_config.\
             common_http_protocol_options.max_connection_duration_jitter: not built: `max_connection_duration` is without jitter",
        ]
    );
    assert_eq!(ignored, ["flags_path", "static_resources.listeners[0].filter_chains[0].filters[0].name",]);
}

/// The page of extensions, by whose names people look for them.
const EXTENSIONS: &str = include_str!("../../../docs/extensions.md");

#[test]
fn every_extension_is_in_the_documentation() {
    let all = proxy_extensions::extensions();
    let names = (all.http_filters.iter().map(|one| one.descriptor().name))
        .chain(all.network_filters.iter().map(|one| one.descriptor().name))
        .chain(all.upstream_network_filters.iter().map(|one| one.descriptor().name))
        .chain(all.listener_filters.iter().map(|one| one.descriptor().name))
        .chain(all.access_logs.iter().map(|one| one.descriptor().name))
        .chain(all.stats_sinks.iter().map(|one| one.descriptor().name))
        .chain(all.tracers.iter().map(|one| one.descriptor().name));
    let missing: Vec<&str> = names.filter(|name| !EXTENSIONS.contains(&format!("`{name}`"))).collect();
    assert!(missing.is_empty(), "not in docs/extensions.md: {missing:?}");
}

/// Of those without a table (balancers, matchers, clusters, sockets ...) the package of the message is the name.
#[test]
fn every_part_that_the_api_calls_an_extension_is_in_the_documentation() {
    let other_names = [
        ("access_loggers.stream", "envoy.access_loggers.stdout"),
        ("resource_monitors.downstream_connections", "global_downstream_max_connections"),
    ];
    let mut missing = BTreeSet::new();
    for (message, _) in tables() {
        let Some(message) = message.strip_prefix("envoy.extensions.") else { continue };
        let package: Vec<&str> = message.split('.').take_while(|part| !part.starts_with('v')).collect();
        let path = package.join(".");
        let own = package.last().copied().unwrap_or_default();
        let name = other_names.iter().find(|(other, _)| *other == path).map_or(own, |(_, name)| name);
        let is_shared = package.contains(&"common");
        if !is_shared && !EXTENSIONS.contains(name) {
            missing.insert(path);
        }
    }
    assert!(missing.is_empty(), "not in docs/extensions.md: {missing:?}");
}

#[test]
fn an_unknown_type_is_for_its_reader() {
    let (errors, _) = enforce_yaml(
        r#"
static_resources:
  listeners:
  - filter_chains:
    - filters:
      - typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.redis_proxy.v3.RedisProxy
          stat_prefix: r
          settings: {op_timeout: 1s}
"#,
    );
    assert_eq!(errors, [""; 0]);
}

#[test]
fn examples_are_honoured() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples");
    let mut count = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "yaml") {
            let (errors, _) = enforce_yaml(&std::fs::read_to_string(&path).unwrap());
            assert_eq!(errors, [""; 0], "{}", path.display());
            count += 1;
        }
    }
    assert!(count >= 8, "only {count} examples");
}

/// `UPDATE_DOCS=1` writes the page instead.
#[test]
fn the_documentation_is_up_to_date() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/configuration.md");
    let page = page();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(path, &page).unwrap();
    }
    let written = std::fs::read_to_string(path).unwrap();
    assert!(
        written == page,
        "docs/configuration.md differs from the tables: UPDATE_DOCS=1 cargo test -p proxy fields"
    );
}

fn page() -> String {
    let mut tables: Vec<_> = tables().map(|table| (*table, "")).collect();
    tables.extend(downstream_tables().map(|table| (*table, " (in an HttpConnectionManager)")));
    tables.sort_by_key(|((message, _), place)| (*message, *place));
    tables.dedup();
    let mut page = String::from(
        "# Configuration\n\n\
         What Outrigger does with each field of the configuration of Envoy 1.40, made from the tables in the code.\n\n\
         A field that is not in the table is honoured, if its message is in it or in the list below it. One that is refused rejects the\n\
         configuration that sets it, with the reason; one that has no effect is accepted, and a warning is logged (of names and labels, which\n\
         nobody expects to have one, only for debugging). All messages that are not on this page are refused.\n\n\
         ## What is refused or has no effect\n\n\
         | message | field | | why |\n|---|---|---|---|\n",
    );
    let is_honoured = |fields: &[(&str, FieldUse)]| fields.iter().all(|(_, one)| *one == FieldUse::Used);
    for ((message, fields), place) in tables.iter().filter(|((_, fields), _)| !is_honoured(fields)) {
        // Fields of one message with one reason are one row.
        let mut rows: Vec<(Vec<&str>, &str, &str)> = Vec::new();
        for (field, field_use) in *fields {
            let (what, why) = match field_use {
                FieldUse::Used => continue,
                FieldUse::Rejected(reason) => ("refused", *reason),
                FieldUse::Ignored(reason) => ("no effect", *reason),
            };
            match rows.iter_mut().find(|(_, said, reason)| (*said, *reason) == (what, why)) {
                Some((fields, _, _)) => fields.push(field),
                None => rows.push((vec![field], what, why)),
            }
        }
        for (fields, what, why) in rows {
            let fields: Vec<String> = fields.iter().map(|field| format!("`{field}`")).collect();
            let why = why.replace('|', "\\|");
            let _ = writeln!(page, "| `{message}`{place} | {} | {what} | {why} |", fields.join(", "));
        }
    }
    page += "\n## Messages that are honoured in full\n\n";
    let whole = |message: &str| {
        tables.iter().filter(|table| table.0.0 == message).all(|table| is_honoured(table.0.1))
    };
    let mut honoured: Vec<&str> =
        tables.iter().map(|table| table.0.0).filter(|message| whole(message)).collect();
    honoured.dedup();
    for message in honoured {
        let _ = writeln!(page, "- `{message}`");
    }
    page
}
