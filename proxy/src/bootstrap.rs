//! From the command line's configuration to a checked bootstrap.

use std::path::Path;

use anyhow::{Context, bail};
use xds_api::check::check;
use xds_api::envoy::config::bootstrap::v3::Bootstrap;
use xds_api::read::{Loaded, Options, Source, UnknownFields, merge, read};

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
    if let Some(path) = &sources.path {
        let text = std::fs::read(Path::new(path)).with_context(|| format!("unable to read file: {path}"))?;
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
    let report = check("type.googleapis.com/envoy.config.bootstrap.v3.Bootstrap", &loaded.bytes);
    if !report.errors.is_empty() {
        let lines: Vec<String> = report.errors.iter().map(ToString::to_string).collect();
        bail!("Proto constraint validation failed:\n{}", lines.join("\n"));
    }
    Ok(loaded)
}
