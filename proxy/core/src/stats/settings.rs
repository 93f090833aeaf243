//! The bootstrap's `stats_config` (`envoy.config.metrics.v3.StatsConfig`), built.

use xds_api::envoy::config::metrics::v3::{HistogramBucketSettings, StatsConfig};

use super::bins::DEFAULT_BUCKETS;
use super::matcher::{NamePattern, StatsMatcher};
use super::tags::TagProducer;
use crate::config::ConfigError;

/// How statistics are shown: their tags, which of them exist, and the buckets of histograms.
#[derive(Debug, Default)]
pub struct Settings {
    pub(super) tags: TagProducer,
    pub(super) matcher: StatsMatcher,
    buckets: Vec<BucketRule>,
}

/// The bounds for histograms whose full name matches.
#[derive(Debug)]
struct BucketRule {
    pattern: NamePattern,
    bounds: Box<[f64]>,
}

impl Settings {
    /// Builds `stats_config`; `command_line` are the `--stats-tag` options, name and value.
    ///
    /// # Errors
    /// Everything wrong with it, with paths that begin at `stats_config`.
    pub fn build(config: &StatsConfig, command_line: &[(String, String)]) -> Result<Self, Vec<ConfigError>> {
        let StatsConfig {
            stats_tags,
            use_all_default_tags,
            stats_matcher,
            histogram_bucket_settings,
            allow_default_tag_overrides,
        } = config;
        let mut errors = Vec::new();
        let tags = TagProducer::build(
            stats_tags,
            use_all_default_tags.unwrap_or(true),
            allow_default_tag_overrides.unwrap_or(false),
            command_line,
        )
        .unwrap_or_else(|found| keep(&mut errors, found));
        let matcher = match stats_matcher {
            Some(proto) => StatsMatcher::build(proto).unwrap_or_else(|found| keep(&mut errors, found)),
            None => StatsMatcher::All,
        };
        let mut buckets = Vec::new();
        for (index, proto) in histogram_bucket_settings.iter().enumerate() {
            match bucket_rule(proto, &format!("stats_config.histogram_bucket_settings[{index}]")) {
                Ok(rule) => buckets.extend(rule),
                Err(error) => errors.push(error),
            }
        }
        if errors.is_empty() { Ok(Self { tags, matcher, buckets }) } else { Err(errors) }
    }

    /// The tags of statistics.
    pub fn tags(&self) -> &TagProducer {
        &self.tags
    }

    /// The upper bounds of a histogram's buckets.
    pub fn buckets(&self, name: &str) -> &[f64] {
        let rule = self.buckets.iter().find(|rule| rule.pattern.matches(name));
        rule.map_or(&DEFAULT_BUCKETS, |rule| &rule.bounds)
    }
}

fn keep<T: Default>(errors: &mut Vec<ConfigError>, found: Vec<ConfigError>) -> T {
    errors.extend(found);
    T::default()
}

/// A rule without `buckets` changes nothing.
fn bucket_rule(proto: &HistogramBucketSettings, path: &str) -> Result<Option<BucketRule>, ConfigError> {
    let HistogramBucketSettings { r#match, buckets, bins: _ } = proto;
    let Some(pattern) = r#match else {
        return Err(ConfigError { path: format!("{path}.match"), reason: "value is required".to_owned() });
    };
    let pattern = NamePattern::build(pattern, &format!("{path}.match"))?;
    let mut buckets = buckets.clone();
    buckets.sort_by(f64::total_cmp);
    Ok((!buckets.is_empty()).then(|| BucketRule { pattern, bounds: buckets.into() }))
}
