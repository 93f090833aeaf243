//! `--disable-extensions`: extensions that this program has and configuration may not name.
//!
//! Names are `category/name`, as in Envoy (`envoy.filters.http/envoy.filters.http.buffer`); a disabled extension is one that is not
//! there. What the engine itself is made of cannot be taken out of it: who wants that is refused, not left to believe it. What is not
//! here at all need not be taken out.
//! Source: Envoy `docs/root/operations/cli.rst`, "--disable-extensions".

use anyhow::bail;
use proxy_core::extension::{Descriptor, Extensions};

/// Parts of the engine that have categories of extensions of tables.
const ENGINE: &[&str] = &[
    "envoy.filters.http.router",
    "envoy.filters.network.http_connection_manager",
    "envoy.filters.network.tcp_proxy",
    "envoy.health_checkers.grpc",
    "envoy.health_checkers.http",
    "envoy.health_checkers.tcp",
];

/// Categories of Envoy 1.40 of which something is here that no table takes out.
const BUILT_IN: &[&str] = &[
    "envoy.access_loggers.extension_filters",
    "envoy.bootstrap",
    "envoy.built_in_formatters",
    "envoy.clusters",
    "envoy.compression.compressor",
    "envoy.config_mux",
    "envoy.config_subscription",
    "envoy.connection_handler",
    "envoy.filters.http.upstream",
    "envoy.formatter",
    "envoy.health_check.event_sinks",
    "envoy.http.stateful_header_formatters",
    "envoy.http.stateful_session",
    "envoy.internal_redirect_predicates",
    "envoy.listener_manager_impl",
    "envoy.load_balancing_policies",
    "envoy.matching.action",
    "envoy.matching.common_inputs",
    "envoy.matching.http.custom_matchers",
    "envoy.matching.http.input",
    "envoy.matching.input_matchers",
    "envoy.matching.network.custom_matchers",
    "envoy.matching.network.input",
    "envoy.network.dns_resolver",
    "envoy.path.match",
    "envoy.path.rewrite",
    "envoy.rate_limit_descriptors",
    "envoy.rbac.principals",
    "envoy.rds_factory",
    "envoy.regex_engines",
    "envoy.request_id",
    "envoy.resolvers",
    "envoy.resource_monitors",
    "envoy.retry_host_predicates",
    "envoy.retry_priorities",
    "envoy.route_config_update_requester",
    "envoy.router.cluster_specifier_plugin",
    "envoy.ssl.server_context_factory",
    "envoy.tls.cert_validator",
    "envoy.tracers.opentelemetry.resource_detectors",
    "envoy.tracers.opentelemetry.samplers",
    "envoy.transport_sockets.downstream",
    "envoy.transport_sockets.upstream",
    "envoy.upstream.local_address_selector",
    "envoy.upstream_options",
    "envoy.upstreams",
    "filter_state.object",
    "network.connection.client",
];

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
        if ENGINE.contains(&name) {
            bail!("--disable-extensions: '{entry}' is a part of the engine and cannot be disabled");
        }
        match remove(&mut all, category, name) {
            Some(true) => tracing::info!("disabled extension '{entry}'"),
            None if BUILT_IN.contains(&category) => {
                bail!(
                    "--disable-extensions: '{entry}': extensions of the category '{category}' cannot be disabled"
                )
            }
            Some(false) | None => tracing::warn!("failed to disable unknown extension '{entry}'"),
        }
    }
    Ok(all)
}

/// Whether there was one of that name; `None` if there is no table for the category.
fn remove(all: &mut Extensions, category: &str, name: &str) -> Option<bool> {
    Some(match category {
        "envoy.filters.http" => retain(&mut all.http_filters, name, |one| one.descriptor()),
        "envoy.filters.network" => retain(&mut all.network_filters, name, |one| one.descriptor()),
        "envoy.filters.upstream_network" => {
            retain(&mut all.upstream_network_filters, name, |one| one.descriptor())
        }
        "envoy.filters.listener" => retain(&mut all.listener_filters, name, |one| one.descriptor()),
        "envoy.access_loggers" => retain(&mut all.access_logs, name, |one| one.descriptor()),
        "envoy.stats_sinks" => retain(&mut all.stats_sinks, name, |one| one.descriptor()),
        "envoy.tracers" => retain(&mut all.tracers, name, |one| one.descriptor()),
        _ => return None,
    })
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
    use super::*;

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
            "envoy.health_checkers/envoy.health_checkers.redis",
            "envoy.quic.proof_source/envoy.quic.proof_source.filter_chain",
            "envoy.nothing/envoy.nothing.at_all",
        ] {
            assert_eq!(disable(entry).err(), None, "{entry}");
        }
    }

    #[test]
    fn what_cannot_be_disabled_is_refused() {
        for (entry, reason) in [
            ("envoy.filters.http/envoy.filters.http.router", "is a part of the engine"),
            ("envoy.health_checkers/envoy.health_checkers.http", "is a part of the engine"),
            (
                "envoy.transport_sockets.downstream/envoy.transport_sockets.tls",
                "of the category 'envoy.transport_sockets.downstream' cannot",
            ),
            (
                "envoy.load_balancing_policies/envoy.load_balancing_policies.maglev",
                "of the category 'envoy.load_balancing_policies' cannot",
            ),
        ] {
            let error = disable(entry).err().unwrap();
            assert!(error.contains(reason), "{error}");
        }
    }
}
