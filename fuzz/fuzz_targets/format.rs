//! Format strings of access logs and headers: no panic, whatever they are and whatever they print.
#![no_main]

use libfuzzer_sys::fuzz_target;
use proxy_core::config::BuildCx;
use proxy_core::format::{Empty, Format, LineFormat};
use xds_api::envoy::config::core::v3::SubstitutionFormatString;
use xds_api::read::{Options, Source, read};

fuzz_target!(|input: &[u8]| {
    let Some((&how, text)) = input.split_first() else { return };
    let Ok(text) = std::str::from_utf8(text) else { return };
    let mut out = Vec::new();
    match how % 3 {
        0 | 1 => {
            let empty = if how % 3 == 0 { Empty::Dash } else { Empty::Omit };
            let Ok(format) = Format::parse_with(text, empty) else { return };
            outrigger_fuzz::with_entry(|entry| format.render(entry, &mut out));
            if let Some(constant) = format.constant() {
                assert_eq!(constant.as_bytes(), out);
            }
        }
        _ => {
            let source = Source::yaml("", text.as_bytes());
            let Ok(read) = read::<SubstitutionFormatString>(&source, &Options::default()) else { return };
            let env = outrigger_fuzz::env();
            let mut cx = BuildCx::new(&env);
            let Ok(format) = LineFormat::build(&read.message, &mut cx) else {
                assert!(cx.is_rejected());
                return;
            };
            outrigger_fuzz::with_entry(|entry| format.render(entry, &mut out));
        }
    }
});
