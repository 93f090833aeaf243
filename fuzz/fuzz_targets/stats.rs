//! Names of statistics: tags come out of them, and every exposition stays well formed.
#![no_main]

use std::sync::LazyLock;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use proxy_core::matcher::regex::Search;
use proxy_core::stats::{
    BucketMode, Registry, Selection, Settings, TagProducer, Unit, json, prometheus, text,
};
use regex::Regex;
use xds_api::envoy::config::metrics::v3::{StatsConfig, TagSpecifier, tag_specifier::TagValue};

#[derive(Arbitrary, Debug)]
struct Input {
    tag: Option<(String, bool, String)>,
    names: Vec<(u8, Vec<Piece>, u64)>,
    filter: Option<String>,
    summary: bool,
    used_only: bool,
}

#[derive(Arbitrary, Debug)]
enum Piece {
    Known(u8),
    Text(String),
}

/// What the default tags look for.
const KNOWN: [&str; 22] = [
    "cluster",
    "http",
    "listener",
    "vhost",
    "vcluster",
    "route",
    "upstream_rq_200",
    "upstream_rq_5xx",
    "downstream_rq_2xx",
    "rds",
    "grpc",
    "tcp",
    "worker_1",
    "0.0.0.0_80",
    "[__1]_443",
    "ssl",
    "ciphers",
    "canary",
    "zone",
    "dynamodb",
    "mongo",
    "ratelimit",
];

static TYPE: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"\A# TYPE [a-zA-Z_:][a-zA-Z0-9_:]* (counter|gauge|histogram|summary)\z").expect("valid")
});
static SAMPLE: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(
        r#"\A[a-zA-Z_:][a-zA-Z0-9_:]*\{([a-zA-Z0-9_]+="([^"\\]|\\["\\n])*"(,[a-zA-Z0-9_]+="([^"\\]|\\["\\n])*")*)?\} (-?[0-9.]+(e[-+]?[0-9]+)?|nan|NaN|inf|\+Inf)\z"#,
    )
    .expect("valid")
});

fuzz_target!(|input: Input| {
    let Input { tag, names, filter, summary, used_only } = input;
    let mut config = StatsConfig::default();
    if let Some((tag_name, fixed, value)) = tag {
        let value = if fixed { TagValue::FixedValue(value) } else { TagValue::Regex(value) };
        config.stats_tags.push(TagSpecifier { tag_name, tag_value: Some(value) });
    }
    let Ok(settings) = Settings::build(&config, &[]) else { return };
    let registry = Registry::with_settings(1, settings);
    let mut kept: Vec<Box<dyn std::any::Any>> = Vec::new();
    for (kind, pieces, value) in names.iter().take(8) {
        let name = name(pieces);
        check_tags(registry.settings().tags(), &name);
        match kind % 4 {
            0 => {
                let counter = registry.counter(&name);
                counter.add(*value);
                kept.push(Box::new(counter));
            }
            1 => {
                let gauge = registry.gauge(&name);
                gauge.set(*value);
                kept.push(Box::new(gauge));
            }
            2 => {
                let histogram = registry.histogram(&name, Unit::Milliseconds);
                histogram.record(*value);
                kept.push(Box::new(histogram));
            }
            _ => {
                let readout = registry.text(&name);
                readout.set(&name);
                kept.push(Box::new(readout));
            }
        }
    }
    registry.flush();
    let selection = Selection {
        used_only,
        filter: filter.and_then(|filter| Search::new(&filter).ok()),
        buckets: if summary { BucketMode::Summary } else { BucketMode::Cumulative },
        text_readouts: true,
        ..Selection::default()
    };
    check_exposition(&prometheus::render(&registry, &selection).expect("supported"));
    let document = json::render(&registry, &selection);
    serde_json::from_str::<serde_json::Value>(&document)
        .unwrap_or_else(|error| panic!("{error}: {document}"));
    let _ = text::render(&registry, &selection);
});

fn name(pieces: &[Piece]) -> String {
    let texts: Vec<&str> = pieces
        .iter()
        .map(|piece| match piece {
            Piece::Known(index) => KNOWN[usize::from(*index) % KNOWN.len()],
            Piece::Text(text) => text.as_str(),
        })
        .collect();
    texts.join(".")
}

fn check_tags(tags: &TagProducer, name: &str) {
    let mut values = Vec::new();
    let left = tags.extract(name, |tag| values.push(tag.value.to_owned()));
    assert!(left.len() <= name.len());
    for value in values {
        assert!(name.contains(&value), "{value} is not in {name}");
    }
}

fn check_exposition(text: &str) {
    for line in text.split_terminator('\n') {
        assert!(TYPE.is_match(line) || SAMPLE.is_match(line), "{line}");
    }
}
