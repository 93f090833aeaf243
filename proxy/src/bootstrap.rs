//! From the command line's configuration to a checked bootstrap.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, bail};
use prost_types::value::Kind;
use xds_api::Error;
use xds_api::check::walk;
use xds_api::envoy::config::bootstrap::v3::{Bootstrap, runtime_layer::LayerSpecifier};
use xds_api::read::{Loaded, Options, Source, UnknownFields, locate, merge, read};

use crate::fields::{self, Enforcer};

/// Where the bootstrap comes from.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// `--config-path`
    pub path: Option<String>,
    /// `--config-yaml`, merged over the file.
    pub yaml: Option<String>,
    /// `--allow-unknown-static-fields`
    pub allow_unknown_fields: bool,
}

/// Reads and checks the bootstrap.
///
/// # Errors
/// Everything that is wrong with it, one line each, with file, place and path.
pub fn load(sources: &Sources) -> anyhow::Result<Loaded<Bootstrap>> {
    let unknown_fields =
        if sources.allow_unknown_fields { UnknownFields::Allow } else { UnknownFields::Reject };
    let options = Options { unknown_fields };
    let mut loaded: Option<Loaded<Bootstrap>> = None;
    let mut text = Vec::new();
    if let Some(path) = &sources.path {
        text = std::fs::read(Path::new(path)).with_context(|| format!("unable to read file: {path}"))?;
        loaded = Some(read(&Source::file(path, &text), &options)?);
    }
    if let Some(yaml) = &sources.yaml {
        let over = read(&Source::yaml("--config-yaml", yaml.as_bytes()), &options)?;
        loaded = Some(match loaded {
            Some(base) => merge(base, over)?,
            None => over,
        });
    }
    let Some(loaded) = loaded else {
        bail!("At least one of --config-path or --config-yaml or Options::configProto() should be non-empty");
    };
    let source = match (&sources.path, &sources.yaml) {
        (Some(path), None) => Some(Source::file(path, &text)),
        (None, Some(yaml)) => Some(Source::yaml("--config-yaml", yaml.as_bytes())),
        // (The paths are those of the merged message.)
        _ => None,
    };
    verify(&loaded, source.as_ref())?;
    Ok(loaded)
}

/// Holds the bootstrap to the constraints of the API and to what this version honours.
fn verify(loaded: &Loaded<Bootstrap>, source: Option<&Source<'_>>) -> anyhow::Result<()> {
    let mut enforcer = Enforcer::default();
    let mut report =
        walk("type.googleapis.com/envoy.config.bootstrap.v3.Bootstrap", &loaded.bytes, &mut enforcer);
    let mut lines = Vec::new();
    if !report.errors.is_empty() {
        lines.push("Proto constraint validation failed:".to_owned());
        lines.extend(place(&mut report.errors, source));
    }
    let deprecated = loaded.deprecated.iter().chain(&report.deprecated);
    let disallowed: BTreeSet<_> = deprecated
        .filter(|one| one.disallowed && !is_allowed(&loaded.message, &one.name))
        .map(|one| (one.path.as_str(), one.name.as_str()))
        .collect();
    let refused = disallowed.into_iter().map(|(path, name)| {
        let reason = format!(
            "deprecated '{name}' is disallowed by default; the runtime key {DEPRECATED}{name} allows it"
        );
        Error::new(path, reason)
    });
    let unavailable = enforcer.errors.into_iter().map(|error| Error::new(error.path, error.reason));
    let mut refused: Vec<Error> = refused.chain(unavailable).collect();
    lines.extend(place(&mut refused, source));
    if !lines.is_empty() {
        bail!("{}", lines.join("\n"));
    }
    fields::report(&enforcer.ignored);
    Ok(())
}

/// Prefix of the runtime keys that allow what is deprecated.
const DEPRECATED: &str = "envoy.deprecated_features:";

/// Whether the runtime of the bootstrap itself allows a deprecated field or value.
fn is_allowed(bootstrap: &Bootstrap, name: &str) -> bool {
    let keys = [format!("{DEPRECATED}{name}"), "envoy.features.enable_all_deprecated_features".to_owned()];
    bootstrap.layered_runtime.iter().flat_map(|runtime| &runtime.layers).any(|layer| {
        let Some(LayerSpecifier::StaticLayer(values)) = &layer.layer_specifier else { return false };
        keys.iter().any(|key| {
            let value = values.fields.get(key).and_then(|value| value.kind.as_ref());
            matches!(value, Some(Kind::BoolValue(true)))
                || matches!(value, Some(Kind::StringValue(text)) if text == "true")
        })
    })
}

fn place(errors: &mut [Error], source: Option<&Source<'_>>) -> Vec<String> {
    if let Some(source) = source {
        locate(errors, source);
    }
    errors.iter().map(ToString::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load_yaml(text: &str) -> Result<(), String> {
        let sources = Sources { yaml: Some(text.to_owned()), ..Sources::default() };
        load(&sources).map(|_| ()).map_err(|error| error.to_string())
    }

    #[test]
    fn errors_have_their_place() {
        let error = load_yaml("node: {id: a}\nstatic_resources:\n  clusters:\n  - {connect_timeout: -1s}\n");
        assert_eq!(
            error.unwrap_err(),
            "Proto constraint validation failed:\n\
             --config-yaml:4:6: static_resources.clusters[0].connect_timeout: value must be greater than 0s\n\
             --config-yaml:4:5: static_resources.clusters[0].name: value length must be at least 1 characters"
        );
        assert_eq!(
            load_yaml("node: {id: a}\nheader_prefix: x").unwrap_err(),
            "--config-yaml:2:1: header_prefix: headers begin with x-envoy-"
        );
    }

    #[test]
    fn negative_durations_are_refused_where_no_rule_says_so() {
        let error = load_yaml(
            "stats_eviction_interval: 1s\nstatic_resources: {listeners: [{name: l, listener_filters_timeout: -1s}]}",
        );
        assert!(error.unwrap_err().contains("listener_filters_timeout: Invalid duration"));
    }
}
