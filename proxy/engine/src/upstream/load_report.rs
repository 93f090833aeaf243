//! What hosts report of their load with an answer (ORCA), in each form that Envoy takes.
//!
//! A report is read from a host's headers or trailers, and only where somebody wants to know. One that is broken says nothing, as in Envoy.
//! Source: gRFC A51, Envoy `source/common/orca/orca_parser.cc`.

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use http::{HeaderMap, HeaderValue};
use prost::Message as _;
use xds_api::read::{Format, Options, Source, read};
use xds_api::xds::data::orca::v3::OrcaLoadReport;

/// The report in binary, as gRPC sends it.
const BINARY: &str = "endpoint-load-metrics-bin";
/// The report after the name of its form.
const REPORT: &str = "endpoint-load-metrics";

/// gRPC pads what it encodes, or does not.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The report in `fields`, if there is one.
pub(crate) fn report(fields: &HeaderMap) -> Option<OrcaLoadReport> {
    if let Some(value) = fields.get(BINARY) {
        return binary(value.as_bytes());
    }
    let (form, report) = text(fields.get(REPORT)?)?.split_once(' ')?;
    match form {
        "BIN" => binary(report.as_bytes()),
        "TEXT" => listed(report),
        "JSON" => json(report),
        _ => None,
    }
}

fn text(value: &HeaderValue) -> Option<&str> {
    std::str::from_utf8(value.as_bytes()).ok()
}

fn binary(encoded: &[u8]) -> Option<OrcaLoadReport> {
    let bytes = BASE64.decode(encoded).ok().filter(|bytes| !bytes.is_empty())?;
    OrcaLoadReport::decode(&*bytes).ok()
}

fn json(text: &str) -> Option<OrcaLoadReport> {
    let source = Source { name: "", text: text.as_bytes(), format: Format::Json };
    read(&source, &Options::default()).ok().map(|loaded| loaded.message)
}

/// Names and numbers: `cpu_utilization:0.3, named_metrics.queue:7`. Each name may come once.
fn listed(text: &str) -> Option<OrcaLoadReport> {
    let mut report = OrcaLoadReport::default();
    let mut seen: Vec<&str> = Vec::new();
    for metric in text.split(',').map(str::trim_ascii).filter(|metric| !metric.is_empty()) {
        let (name, value) = metric.split_once(':')?;
        let value: f64 = value.trim_ascii().parse().ok().filter(|value: &f64| value.is_finite())?;
        if seen.contains(&name) {
            return None;
        }
        seen.push(name);
        match name {
            "cpu_utilization" => report.cpu_utilization = value,
            "mem_utilization" => report.mem_utilization = value,
            "application_utilization" => report.application_utilization = value,
            "eps" => report.eps = value,
            "rps_fractional" => report.rps_fractional = value,
            _ => {
                let (map, key) = name.split_once('.').filter(|(_, key)| !key.is_empty())?;
                let map = match map {
                    "named_metrics" => &mut report.named_metrics,
                    "utilization" => &mut report.utilization,
                    _ => return None,
                };
                map.insert(key.to_owned(), value);
            }
        }
    }
    Some(report)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(name: &'static str, value: &[u8]) -> Option<OrcaLoadReport> {
        let mut fields = HeaderMap::new();
        fields.insert(name, HeaderValue::from_bytes(value).unwrap());
        report(&fields)
    }

    fn example() -> OrcaLoadReport {
        OrcaLoadReport {
            cpu_utilization: 0.5,
            mem_utilization: 0.25,
            application_utilization: 0.75,
            rps_fractional: 100.0,
            eps: 2.0,
            named_metrics: [("queue".to_owned(), 0.5)].into(),
            ..OrcaLoadReport::default()
        }
    }

    #[test]
    fn every_form_says_the_same() {
        let encoded = base64::engine::general_purpose::STANDARD.encode(example().encode_to_vec());
        assert_eq!(of(BINARY, encoded.as_bytes()), Some(example()));
        assert_eq!(of(BINARY, encoded.trim_end_matches('=').as_bytes()), Some(example()));
        assert_eq!(of(REPORT, format!("BIN {encoded}").as_bytes()), Some(example()));
        let listed = "TEXT cpu_utilization:0.5, mem_utilization: 0.25,,application_utilization:.75,rps_fractional:1e2 ,eps:+2,\
                      named_metrics.queue:0.5";
        assert_eq!(of(REPORT, listed.as_bytes()), Some(example()));
        let json = r#"JSON {"cpu_utilization": 0.5, "memUtilization": "0.25", "application_utilization": 0.75,
            "rps_fractional": 100, "eps": 2, "named_metrics": {"queue": 0.5}}"#;
        assert_eq!(of(REPORT, json.replace('\n', "").as_bytes()), Some(example()));
    }

    #[test]
    fn what_is_broken_says_nothing() {
        for broken in [
            "",
            "TEXT",
            "text cpu_utilization:1",
            "BIN !",
            "BIN ",
            "JSON {",
            "JSON []",
            "cpu_utilization:1",
            "TEXT cpu_utilization:1,cpu_utilization:1",
            "TEXT cpu:1",
            "TEXT cpu_utilization",
            "TEXT cpu_utilization:",
            "TEXT :1",
            "TEXT cpu_utilization:x",
            "TEXT eps:nan",
            "TEXT eps:inf",
            "TEXT eps:1e999",
            "TEXT named_metrics.:1",
            "TEXT utilization.:1",
            "TEXT cost.x:1",
            "TEXT eps :1",
            "JSON {\"unheard_of\": 1}",
        ] {
            assert_eq!(of(REPORT, broken.as_bytes()), None, "{broken}");
        }
        assert_eq!(of(BINARY, b""), None);
        assert_eq!(of(BINARY, b"//8="), None);
        assert_eq!(report(&HeaderMap::new()), None);
        // An empty list is a report of nothing.
        assert_eq!(of(REPORT, b"TEXT ,"), Some(OrcaLoadReport::default()));
    }

    proptest! {
        #[test]
        fn any_field_is_read(form in "(BIN |TEXT |JSON |)", value in prop::collection::vec(32u8..=255, 0..200)) {
            let value = [form.as_bytes(), &value].concat();
            if let Ok(value) = HeaderValue::from_bytes(&value) {
                for name in [BINARY, REPORT] {
                    let mut fields = HeaderMap::new();
                    fields.insert(name, value.clone());
                    let _ = report(&fields);
                }
            }
        }

        #[test]
        fn lists_say_what_they_list(values in prop::collection::hash_map("[a-z]{1,6}", -1e9f64..1e9, 0..8)) {
            let list: Vec<String> = values.iter().map(|(name, value)| format!("named_metrics.{name}:{value}")).collect();
            let report = of(REPORT, format!("TEXT {}", list.join(",")).as_bytes()).unwrap();
            prop_assert_eq!(report.named_metrics, values);
        }
    }
}
