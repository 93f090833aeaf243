//! From the command line's configuration to a checked bootstrap.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, bail};
use prost_types::value::Kind;
use proxy_core::config::{ConfigError, all_errors};
use xds_api::Error;
use xds_api::check::walk;
use xds_api::envoy::config::bootstrap::v3::{Bootstrap, runtime_layer::LayerSpecifier};
use xds_api::read::{Deprecated, Loaded, Options, Source, UnknownFields, locate, merge, read_what_is_right};

use crate::fields::guard::{forbids, is_allowed};
use crate::fields::{Enforcer, Ignored};

mod settings;

pub use settings::Settings;

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

/// A bootstrap that could be read, and what is wrong with it so far.
pub struct Checked {
    /// The bootstrap.
    pub loaded: Loaded<Bootstrap>,
    /// What is set in it and has no effect.
    pub ignored: Vec<Ignored>,
    /// The deprecated fields and values in it that may be used.
    pub deprecated: Vec<Deprecated>,
    /// What could not be read, and is not in `loaded`.
    unreadable: Vec<Error>,
    /// What the API forbids.
    invalid: Vec<Error>,
    /// What cannot be honoured.
    refused: Vec<ConfigError>,
    text: Text,
}

/// Where the bootstrap was read from, to tell the places of errors.
#[derive(Default)]
struct Text {
    path: Option<String>,
    file: Vec<u8>,
    yaml: Option<String>,
}

/// Reads and checks the bootstrap. What is wrong with what could be read, [`Checked::verdict`] tells.
///
/// # Errors
/// Why nothing can be read at all, with file and place.
pub fn load(sources: &Sources) -> anyhow::Result<Checked> {
    let unknown_fields =
        if sources.allow_unknown_fields { UnknownFields::Allow } else { UnknownFields::Reject };
    let options = Options { unknown_fields };
    let mut text = Text { path: sources.path.clone(), yaml: sources.yaml.clone(), ..Text::default() };
    let mut loaded: Option<Loaded<Bootstrap>> = None;
    let mut unreadable = Vec::new();
    if let Some(path) = &sources.path {
        text.file = std::fs::read(Path::new(path)).with_context(|| format!("unable to read file: {path}"))?;
        let (file, errors) = read_what_is_right(&Source::file(path, &text.file), &options)?;
        loaded = Some(file);
        unreadable.extend(errors);
    }
    if let Some(yaml) = &sources.yaml {
        let (over, errors) = read_what_is_right(&Source::yaml("--config-yaml", yaml.as_bytes()), &options)?;
        unreadable.extend(errors);
        loaded = Some(match loaded {
            Some(base) => merge(base, over)?,
            None => over,
        });
    }
    let Some(loaded) = loaded else {
        bail!("At least one of --config-path or --config-yaml or Options::configProto() should be non-empty");
    };
    Ok(check(loaded, unreadable, text))
}

/// Holds the bootstrap to the constraints of the API and to what this version honours.
fn check(loaded: Loaded<Bootstrap>, unreadable: Vec<Error>, text: Text) -> Checked {
    let mut enforcer = Enforcer::default();
    let report =
        walk("type.googleapis.com/envoy.config.bootstrap.v3.Bootstrap", &loaded.bytes, &mut enforcer);
    let mut known = BTreeSet::new();
    let (deprecated, forbidden): (Vec<_>, Vec<_>) = (loaded.deprecated.iter().chain(&report.deprecated))
        .filter(|one| known.insert((one.path.clone(), one.name.clone())))
        .cloned()
        .partition(|one| is_allowed(one, |key| static_runtime(&loaded.message, key)));
    let forbidden = forbidden.iter().map(forbids).map(ConfigError::from);
    let refused = forbidden.chain(enforcer.errors).collect();
    let mut invalid = report.errors;
    invalid.retain(|error| !unreadable.iter().any(|cause| follows(&error.path, &error.reason, cause)));
    Checked { loaded, ignored: enforcer.ignored, deprecated, unreadable, invalid, refused, text }
}

impl Checked {
    /// Whether the bootstrap may be used, once it has been tried to build it; `built` is what was wrong with that.
    ///
    /// # Errors
    /// Everything that is wrong, one line each, with file, place and path.
    pub fn verdict(&self, built: Vec<ConfigError>) -> anyhow::Result<()> {
        let mut invalid = self.invalid.clone();
        let built = built
            .into_iter()
            .filter(|error| !self.unreadable.iter().any(|cause| follows(&error.path, &error.reason, cause)));
        let known = invalid.iter().cloned().map(ConfigError::from).chain(self.refused.iter().cloned());
        let others = all_errors(known.collect(), built.collect()).split_off(invalid.len());
        let mut others: Vec<Error> =
            others.into_iter().map(|error| Error::new(error.path, error.reason)).collect();
        let mut lines: Vec<String> = self.unreadable.iter().map(ToString::to_string).collect();
        if !invalid.is_empty() {
            lines.push("Proto constraint validation failed:".to_owned());
            lines.extend(self.text.place(&mut invalid));
        }
        lines.extend(self.text.place(&mut others));
        if lines.is_empty() { Ok(()) } else { bail!("{}", lines.join("\n")) }
    }
}

/// Whether something is wrong only because a value was left out that could not be read: it is about that value, or misses
/// something in the same message.
fn follows(path: &str, reason: &str, cause: &Error) -> bool {
    let parent = |path: &str| path.rsplit_once('.').map_or(String::new(), |(parent, _)| parent.to_owned());
    if path == cause.path {
        return true;
    }
    let left_out = !cause.reason.starts_with("no such field");
    left_out
        && reason.contains("required")
        && (path == parent(&cause.path) || parent(path) == parent(&cause.path))
}

impl Text {
    fn place(&self, errors: &mut [Error]) -> Vec<String> {
        match (&self.path, &self.yaml) {
            (Some(path), None) => locate(errors, &Source::file(path, &self.file)),
            (None, Some(yaml)) => locate(errors, &Source::yaml("--config-yaml", yaml.as_bytes())),
            // (The paths are those of the merged message.)
            (Some(path), Some(_)) => {
                let name: Arc<str> = format!("{path} with --config-yaml").into();
                errors.iter_mut().for_each(|error| error.file = Some(name.clone()));
            }
            (None, None) => {}
        }
        errors.iter().map(ToString::to_string).collect()
    }
}

/// The value of a key in the static layers of the bootstrap itself, the last one winning.
fn static_runtime(bootstrap: &Bootstrap, key: &str) -> Option<String> {
    let layers = bootstrap.layered_runtime.iter().flat_map(|runtime| &runtime.layers);
    let mut values = layers.filter_map(|layer| match &layer.layer_specifier {
        Some(LayerSpecifier::StaticLayer(values)) => values.fields.get(key)?.kind.as_ref(),
        _ => None,
    });
    values.next_back().and_then(|value| match value {
        Kind::BoolValue(flag) => Some(flag.to_string()),
        Kind::StringValue(text) => Some(text.clone()),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use xds_api::read::read;

    fn load_yaml(text: &str) -> Result<(), String> {
        let sources = Sources { yaml: Some(text.to_owned()), ..Sources::default() };
        load(&sources).and_then(|checked| checked.verdict(Vec::new())).map_err(|error| error.to_string())
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
            load_yaml("node: {id: a}\nperf_tracing_file_path: x").unwrap_err(),
            "--config-yaml:2:1: perf_tracing_file_path: not available"
        );
    }

    #[test]
    fn what_cannot_be_read_is_told_with_the_rest() {
        let error = load_yaml(
            "node: {id: a}\nstatic_resources:\n  clusters:\n  - {name: 7, connect_timeout: -1s, no_such: 1}\n  \
             - {connect_timeout: soon}\n  - {connect_timeout: -2s}\nperf_tracing_file_path: x",
        );
        assert_eq!(
            error.unwrap_err(),
            "--config-yaml:4:12: static_resources.clusters[0].name: expected a string, got a number\n\
             --config-yaml:4:37: static_resources.clusters[0].no_such: no such field: 'no_such'\n\
             --config-yaml:5:23: static_resources.clusters[1].connect_timeout: duration must start with an integer\n\
             Proto constraint validation failed:\n\
             --config-yaml:4:15: static_resources.clusters[0].connect_timeout: value must be greater than 0s\n\
             --config-yaml:5:5: static_resources.clusters[1].name: value length must be at least 1 characters\n\
             --config-yaml:6:6: static_resources.clusters[2].connect_timeout: value must be greater than 0s\n\
             --config-yaml:6:5: static_resources.clusters[2].name: value length must be at least 1 characters\n\
             --config-yaml:7:1: perf_tracing_file_path: not available"
        );
    }

    #[test]
    fn what_building_finds_has_its_place_too() {
        let text =
            "perf_tracing_file_path: x\nadmin: {address: {socket_address: {address: b, port_value: 1}}}";
        let sources = Sources { yaml: Some(text.to_owned()), ..Sources::default() };
        let error = |path: &str| ConfigError { path: path.to_owned(), reason: "wrong".to_owned() };
        let built = vec![error("perf_tracing_file_path"), error("admin.address.socket_address.address")];
        assert_eq!(
            load(&sources).unwrap().verdict(built).unwrap_err().to_string(),
            "--config-yaml:1:1: perf_tracing_file_path: not available\n\
             --config-yaml:2:36: admin.address.socket_address.address: wrong"
        );
    }

    #[test]
    fn the_runtime_allows_what_is_deprecated() {
        let at = |text: &str| {
            let bootstrap = read::<Bootstrap>(&Source::yaml("", text.as_bytes()), &Options::default());
            static_runtime(&bootstrap.unwrap().message, "k")
        };
        assert_eq!(
            at("layered_runtime: {layers: [{name: a, static_layer: {k: true}}]}").as_deref(),
            Some("true")
        );
        assert_eq!(at("layered_runtime: {layers: [{name: a, static_layer: {l: true}}]}"), None);
    }

    #[test]
    fn negative_durations_are_refused_where_no_rule_says_so() {
        let error = load_yaml(
            "stats_eviction_interval: 1s\nstatic_resources: {listeners: [{name: l, listener_filters_timeout: -1s}]}",
        );
        assert!(error.unwrap_err().contains("listener_filters_timeout: Invalid duration"));
    }
}
