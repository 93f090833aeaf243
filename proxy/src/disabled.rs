//! `--disable-extensions`: extensions that this program has and configuration may not name.
//!
//! Names are `category/name`, as in Envoy (`envoy.filters.http/envoy.filters.http.buffer`); a disabled extension is one that is not
//! there. What the engine itself is made of cannot be taken out of it: who wants that is refused, not left to believe it. What is not
//! here at all need not be taken out.
//! Source: Envoy `docs/root/operations/cli.rst`, "--disable-extensions".

mod built_in;

use anyhow::bail;
use proxy_core::extension::{Descriptor, Extensions};

use built_in::is_built_in;

/// The extensions without those that are disabled. Names that are none are logged, as by Envoy.
///
/// # Errors
/// One cannot be disabled.
pub fn without(mut all: Extensions, disabled: &[String]) -> anyhow::Result<Extensions> {
    for entry in disabled {
        let Some((category, name)) = entry.split_once('/') else {
            tracing::warn!("failed to disable invalid extension name '{entry}'");
            continue;
        };
        if is_built_in(category, name) {
            bail!("--disable-extensions: '{entry}' is a part of the engine and cannot be disabled");
        }
        match remove(&mut all, category, name) {
            true => tracing::info!("disabled extension '{entry}'"),
            false => tracing::warn!("failed to disable unknown extension '{entry}'"),
        }
    }
    Ok(all)
}

/// Whether there was one of that name in the table of the category.
fn remove(all: &mut Extensions, category: &str, name: &str) -> bool {
    match category {
        "envoy.filters.http" => retain(&mut all.http_filters, name, |one| one.descriptor()),
        "envoy.filters.network" => retain(&mut all.network_filters, name, |one| one.descriptor()),
        "envoy.filters.upstream_network" => {
            retain(&mut all.upstream_network_filters, name, |one| one.descriptor())
        }
        "envoy.filters.listener" => retain(&mut all.listener_filters, name, |one| one.descriptor()),
        "envoy.access_loggers" => retain(&mut all.access_logs, name, |one| one.descriptor()),
        "envoy.stats_sinks" => retain(&mut all.stats_sinks, name, |one| one.descriptor()),
        "envoy.tracers" => retain(&mut all.tracers, name, |one| one.descriptor()),
        _ => false,
    }
}

fn retain<F: ?Sized>(
    table: &mut &'static [&'static F],
    name: &str,
    descriptor: impl Fn(&F) -> Descriptor,
) -> bool {
    let left: Vec<&'static F> = table.iter().copied().filter(|one| descriptor(one).name != name).collect();
    let is_found = left.len() < table.len();
    if is_found {
        // Tables are for as long as the process; one is made anew for a name of the command line, not again.
        *table = left.leak();
    }
    is_found
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::built_in::BUILT_IN;
    use super::*;
    use crate::fields::tables;

    fn names(all: &Extensions) -> Vec<&'static str> {
        all.http_filters.iter().map(|one| one.descriptor().name).collect()
    }

    fn disable(entry: &str) -> Result<Extensions, String> {
        without(proxy_extensions::extensions(), &[entry.to_owned()]).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_disabled_is_not_there() {
        let all = proxy_extensions::extensions();
        let one = disable("envoy.filters.http/envoy.filters.http.buffer").unwrap();
        assert_eq!(one.http_filters.len(), all.http_filters.len() - 1);
        assert!(names(&all).contains(&"envoy.filters.http.buffer"));
        assert!(!names(&one).contains(&"envoy.filters.http.buffer"));
        assert_eq!(one.network_filters.len(), all.network_filters.len());
        for (entry, left) in [
            ("envoy.filters.network/envoy.filters.network.echo", all.network_filters.len() - 1),
            ("envoy.filters.upstream_network/istio.metadata_exchange", all.network_filters.len()),
        ] {
            assert_eq!(disable(entry).unwrap().network_filters.len(), left, "{entry}");
        }
        let rest = |one: Extensions| {
            (one.listener_filters.len(), one.access_logs.len(), one.stats_sinks.len(), one.tracers.len())
        };
        let (listener, logs, sinks, tracers) = rest(all);
        for (entry, left) in [
            (
                "envoy.filters.listener/envoy.filters.listener.tls_inspector",
                (listener - 1, logs, sinks, tracers),
            ),
            ("envoy.access_loggers/envoy.access_loggers.file", (listener, logs - 1, sinks, tracers)),
            ("envoy.stats_sinks/envoy.stat_sinks.statsd", (listener, logs, sinks - 1, tracers)),
            ("envoy.tracers/envoy.tracers.zipkin", (listener, logs, sinks, tracers - 1)),
            ("envoy.tracers/envoy.tracers.nobody", (listener, logs, sinks, tracers)),
            ("envoy.tracers.zipkin", (listener, logs, sinks, tracers)),
        ] {
            assert_eq!(rest(disable(entry).unwrap()), left, "{entry}");
        }
    }

    #[test]
    fn what_is_not_here_need_not_be_disabled() {
        for entry in [
            "envoy.wasm.runtime/envoy.wasm.runtime.v8",
            "envoy.clusters/envoy.clusters.redis",
            "envoy.transport_sockets.upstream/envoy.transport_sockets.alts",
            "envoy.filters.http/envoy.filters.http.wasm",
            "envoy.health_checkers/envoy.health_checkers.redis",
            "envoy.quic.proof_source/envoy.quic.proof_source.filter_chain",
            "envoy.nothing/envoy.nothing.at_all",
            // another category than its own
            "envoy.nothing/envoy.filters.http.router",
            "envoy.filters.network/envoy.filters.http.router",
            "envoy.filters.http/envoy.clusters.aggregate",
        ] {
            assert_eq!(disable(entry).err(), None, "{entry}");
        }
    }

    #[test]
    fn what_cannot_be_disabled_is_refused() {
        for entry in [
            "envoy.filters.http/envoy.filters.http.router",
            "envoy.filters.http/envoy.router",
            "envoy.filters.http.upstream/envoy.filters.http.header_mutation",
            "envoy.health_checkers/envoy.health_checkers.http",
            "envoy.clusters/envoy.cluster.dns",
            "envoy.transport_sockets.downstream/envoy.transport_sockets.tls",
            "envoy.transport_sockets.upstream/tls",
            "envoy.load_balancing_policies/envoy.load_balancing_policies.maglev",
        ] {
            let error = disable(entry).err().unwrap();
            let said = format!("'{entry}' is a part of the engine and cannot be disabled");
            assert!(error.contains(&said), "{error}");
        }
    }

    /// What the engine reads of `envoy.extensions`, and no table has.
    #[test]
    fn every_part_of_the_engine_is_known_to_be_one() {
        // Envoy has no name for this one.
        const NAMELESS: &str = "resource_monitors.downstream_connections";
        let is_of_tables = |package: &str| {
            let is_child = |of: &str| package.strip_prefix(of).is_some_and(|rest| !rest.contains('.'));
            package.starts_with("filters.")
                || ["access_loggers.", "stat_sinks.", "tracers."].into_iter().any(is_child)
        };
        let names: Vec<String> = BUILT_IN
            .iter()
            .flat_map(|(category, names)| names.iter().map(move |name| format!("{category}/{name}")))
            .collect();
        let mut missing = BTreeSet::new();
        for (message, _) in tables() {
            let Some(message) = message.strip_prefix("envoy.extensions.") else { continue };
            let Some((package, _)) = message.split_once(".v3.") else { continue };
            let is_shared = package.split('.').any(|part| part == "common");
            let own = package.rsplit('.').next().unwrap_or_default();
            let is_known = names.iter().any(|name| name.contains(own));
            if !is_shared && !is_of_tables(package) && package != NAMELESS && !is_known {
                missing.insert(package);
            }
        }
        assert!(missing.is_empty(), "not in the list of what is built in: {missing:?}");
    }

    #[test]
    fn what_is_built_in_is_listed_in_order_and_is_in_no_table() {
        assert!(BUILT_IN.is_sorted_by(|one, next| one.0 < next.0));
        for (category, names) in BUILT_IN {
            assert!(names.is_sorted_by(|one, next| one < next), "{category}");
            for name in *names {
                let mut all = proxy_extensions::extensions();
                assert!(!remove(&mut all, category, name), "{category}/{name}");
            }
        }
    }
}
