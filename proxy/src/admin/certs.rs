//! `/certs` (`envoy.admin.v3.Certificates`): the certificates that listeners and clusters use.

use std::time::SystemTime;

use serde_json::{Value, json};

use super::json::{list, object, print, text, timestamp};
use super::request::Request;
use super::response::Response;
use super::state::AdminState;

/// The certificates of one TLS context.
#[derive(Clone, Debug, Default)]
pub struct CertificateEntry {
    /// Authorities that it trusts.
    pub ca: Vec<CertificateDetails>,
    /// Chains that it presents, each with its leaf first.
    pub chain: Vec<CertificateDetails>,
}

/// One certificate.
#[derive(Clone, Debug)]
pub struct CertificateDetails {
    /// The file it came from, or `<inline>`.
    pub path: String,
    /// In lower case hexadecimal digits.
    pub serial_number: String,
    /// Names in it.
    pub subject_alt_names: Vec<SubjectAltName>,
    /// First moment at which it is valid.
    pub valid_from: SystemTime,
    /// Last moment at which it is valid.
    pub expiration_time: SystemTime,
    /// From when to when an OCSP response about it holds, if there is one.
    pub ocsp: Option<(SystemTime, SystemTime)>,
}

/// A name in a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SubjectAltName {
    /// A DNS name.
    Dns(String),
    /// A URI.
    Uri(String),
    /// An IP address.
    IpAddress(String),
}

pub(super) fn certs(state: &dyn AdminState, _request: &Request) -> Response {
    let now = SystemTime::now();
    let entries: Vec<Value> = state.certificates().iter().map(|entry| entry_json(entry, now)).collect();
    Response::json(print(&json!({"certificates": entries})))
}

fn entry_json(entry: &CertificateEntry, now: SystemTime) -> Value {
    let details = |certificates: &[CertificateDetails]| {
        certificates.iter().map(|certificate| details_json(certificate, now)).collect::<Vec<_>>()
    };
    json!({"ca_cert": details(&entry.ca), "cert_chain": details(&entry.chain)})
}

fn details_json(certificate: &CertificateDetails, now: SystemTime) -> Value {
    let left = certificate.expiration_time.duration_since(now).unwrap_or_default();
    let days = left.as_secs() / 86_400;
    let names = certificate.subject_alt_names.iter().map(|name| match name {
        SubjectAltName::Dns(name) => json!({"dns": name}),
        SubjectAltName::Uri(name) => json!({"uri": name}),
        SubjectAltName::IpAddress(name) => json!({"ip_address": name}),
    });
    let ocsp = certificate.ocsp.map(|(from, to)| {
        object([("valid_from", Some(timestamp(from))), ("expiration", Some(timestamp(to)))])
    });
    object([
        ("path", text(&certificate.path)),
        ("serial_number", text(&certificate.serial_number)),
        ("subject_alt_names", Some(list(names.collect()).unwrap_or_else(|| Value::Array(Vec::new())))),
        ("days_until_expiration", Some(Value::from(days.to_string()))),
        ("valid_from", Some(timestamp(certificate.valid_from))),
        ("expiration_time", Some(timestamp(certificate.expiration_time))),
        ("ocsp_details", ocsp),
    ])
}
