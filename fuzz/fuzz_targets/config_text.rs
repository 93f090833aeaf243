//! The loader of configuration texts (YAML, JSON, text format): no panic, what it makes is a well-formed message, and
//! what was read can be printed and read again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use xds_api::check::walk;
use xds_api::envoy::config::bootstrap::v3::Bootstrap;
use xds_api::read::{Format, Loaded, Options, Source, UnknownFields, locate, merge, read};

const BOOTSTRAP: &str = "type.googleapis.com/envoy.config.bootstrap.v3.Bootstrap";

fuzz_target!(|input: &[u8]| {
    let Some((&how, text)) = input.split_first() else { return };
    let format = [Format::Yaml, Format::Json, Format::Text][usize::from(how) % 3];
    let unknown_fields = if how & 4 == 0 { UnknownFields::Allow } else { UnknownFields::Reject };
    let options = Options { unknown_fields };
    // Two texts are merged, as --config-yaml is over the file.
    let (first, second) = match text.iter().position(|byte| *byte == 0xff) {
        Some(at) => (&text[..at], Some(&text[at + 1..])),
        None => (text, None),
    };
    let source = Source { name: "first", text: first, format };
    let Some(mut loaded) = load(&source, &options) else { return };
    if let Some(second) = second.and_then(|text| load(&Source::yaml("second", text), &options)) {
        let Ok(merged) = merge(loaded, second) else { return };
        loaded = merged;
    }
    let mut report = walk(BOOTSTRAP, &loaded.bytes, &mut proxy::fields::Enforcer::default());
    locate(&mut report.errors, &source);
    assert!(report.unknown_fields.is_empty(), "{:?}", report.unknown_fields);
});

fn load(source: &Source<'_>, options: &Options) -> Option<Loaded<Bootstrap>> {
    match read(source, options) {
        Ok(loaded) => Some(loaded),
        Err(errors) => {
            assert!(!errors.0.is_empty());
            None
        }
    }
}
