//! What a certificate says (RFC 5280): names, validity, key. It is read, not verified.

use std::fmt::Write;
use std::net::{Ipv4Addr, Ipv6Addr};

use super::der::{Element, Reader, dotted, tag, time};

/// The parts of a certificate that somebody asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// The subject, as RFC 2253 writes it.
    pub subject: String,
    /// The issuer, likewise.
    pub issuer: String,
    /// The subject as it is encoded.
    pub subject_der: Vec<u8>,
    /// The first common name of the subject.
    pub common_name: Option<String>,
    /// The serial number, hexadecimal.
    pub serial: String,
    /// Seconds since 1970 from which it is valid.
    pub not_before: i64,
    /// Seconds since 1970 up to which it is.
    pub not_after: i64,
    /// The key with its algorithm, as encoded.
    pub public_key: Vec<u8>,
    /// Other names of the subject, in order.
    pub sans: Vec<San>,
    /// What it may be used for.
    pub usage: Usage,
    /// Whoever is shown it should be shown an OCSP response, too (RFC 7633).
    pub must_staple: bool,
}

/// What a certificate says it may be used for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Whether it may issue others: it says so (basicConstraints, and keyUsage if there is one), or it is a root of the first
    /// version, which could not.
    pub issues: bool,
    /// Whether it says that it is an authority (basicConstraints).
    pub is_authority: bool,
    /// What its key may be used for, if it says so (keyUsage): the first eight bits, digitalSignature the highest.
    pub key: Option<u8>,
    /// How many that issue may stand between it and the last one.
    pub path_length: Option<usize>,
    /// The purposes it is restricted to (extendedKeyUsage): object identifiers with dots.
    pub purposes: Option<Vec<String>>,
}

/// Another name of the subject.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct San {
    /// What it is.
    pub kind: SanKind,
    /// As text; of an `otherName` its value.
    pub value: String,
}

/// Kinds of names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SanKind {
    /// An address of mail.
    Email,
    /// A name of DNS.
    Dns,
    /// A URI.
    Uri,
    /// An IP address.
    Ip,
    /// A name of the kind that an object identifier, written with dots, tells.
    Other(String),
}

mod oid {
    pub(super) const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 17];
    pub(super) const KEY_USAGE: &[u8] = &[0x55, 0x1d, 15];
    pub(super) const BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 19];
    pub(super) const EXTENDED_KEY_USAGE: &[u8] = &[0x55, 0x1d, 37];
    /// `id-pe-tlsfeature`, 1.3.6.1.5.5.7.1.24.
    pub(super) const TLS_FEATURE: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 1, 24];
    pub(super) const COMMON_NAME: &[u8] = &[0x55, 4, 3];
}

/// The bits of keyUsage for who signs certificates, and lists of revoked ones.
pub const KEY_CERT_SIGN: u8 = 0x04;
/// See there.
pub const CRL_SIGN: u8 = 0x02;
/// The extension of TLS by which a client asks for an OCSP response.
const STATUS_REQUEST: u8 = 5;

impl Certificate {
    /// Reads a certificate; nothing if it is none.
    pub fn parse(der: &[u8]) -> Option<Self> {
        let mut signed = Reader::new(der).enter(tag::SEQUENCE)?;
        let mut fields = signed.enter(tag::SEQUENCE)?;
        let is_first_version = fields.optional(0xa0).is_none();
        let serial = serial(fields.expect(tag::INTEGER)?);
        fields.expect(tag::SEQUENCE)?;
        let issuer = fields.element().filter(|name| name.tag == tag::SEQUENCE)?;
        let mut validity = fields.enter(tag::SEQUENCE)?;
        let not_before = time(&validity.element()?)?;
        let not_after = time(&validity.element()?)?;
        let subject = fields.element().filter(|name| name.tag == tag::SEQUENCE)?;
        let public_key = fields.element().filter(|key| key.tag == tag::SEQUENCE)?.whole.to_vec();
        let mut read = Self {
            subject: name(subject.content)?,
            issuer: name(issuer.content)?,
            subject_der: subject.whole.to_vec(),
            common_name: common_name(subject.content),
            serial,
            not_before,
            not_after,
            public_key,
            sans: Vec::new(),
            must_staple: false,
            usage: Usage { issues: is_first_version && issuer.whole == subject.whole, ..Usage::default() },
        };
        if let Some(extensions) = fields.find(|element| element.tag == 0xa3) {
            read.extensions(extensions.content)?;
        }
        Some(read)
    }

    fn extensions(&mut self, content: &[u8]) -> Option<()> {
        let mut extensions = Reader::new(content).enter(tag::SEQUENCE)?;
        let mut may_sign = true;
        while !extensions.is_empty() {
            let mut extension = extensions.enter(tag::SEQUENCE)?;
            let id = extension.expect(tag::OID)?;
            extension.optional(tag::BOOLEAN);
            let value = extension.expect(tag::OCTET_STRING)?;
            let mut value = Reader::new(value);
            match id {
                oid::SUBJECT_ALT_NAME => {
                    let names = value.enter(tag::SEQUENCE)?;
                    self.sans = names.filter_map(|name| San::read(&name)).collect();
                }
                oid::BASIC_CONSTRAINTS => {
                    let mut constraints = value.enter(tag::SEQUENCE)?;
                    let says = constraints.optional(tag::BOOLEAN);
                    self.usage.is_authority = says.is_some_and(|says| says.content != [0]);
                    self.usage.issues = self.usage.is_authority;
                    if let Some(length) = constraints.optional(tag::INTEGER) {
                        let length = length.content.iter().try_fold(0_usize, |length, octet| {
                            Some(length.checked_mul(256)? + usize::from(*octet))
                        });
                        self.usage.path_length = Some(length.unwrap_or(usize::MAX));
                    }
                }
                oid::KEY_USAGE => {
                    // The first octet tells how many bits of the last are none; keyCertSign is the sixth.
                    let bits = value.expect(tag::BIT_STRING)?.get(1).copied().unwrap_or_default();
                    self.usage.key = Some(bits);
                    may_sign = bits & KEY_CERT_SIGN != 0;
                }
                oid::TLS_FEATURE => {
                    let mut features = value.enter(tag::SEQUENCE)?;
                    self.must_staple = features.any(|feature| feature.content == [STATUS_REQUEST]);
                }
                oid::EXTENDED_KEY_USAGE => {
                    let purposes = value.enter(tag::SEQUENCE)?;
                    self.usage.purposes = Some(purposes.map(|purpose| dotted(purpose.content)).collect());
                }
                _ => {}
            }
        }
        self.usage.issues &= may_sign;
        Some(())
    }

    /// The other names of one kind.
    pub fn sans_of(&self, kind: &SanKind) -> impl Iterator<Item = &str> {
        self.sans.iter().filter(move |san| san.kind == *kind).map(|san| san.value.as_str())
    }

    /// Whether it is valid at a time, in seconds since 1970.
    pub fn is_valid_at(&self, now: i64) -> bool {
        (self.not_before..=self.not_after).contains(&now)
    }
}

impl San {
    fn read(name: &Element<'_>) -> Option<Self> {
        let text = || String::from_utf8_lossy(name.content).into_owned();
        let (kind, value) = match name.tag {
            0x81 => (SanKind::Email, text()),
            0x82 => (SanKind::Dns, text()),
            0x86 => (SanKind::Uri, text()),
            0x87 => (SanKind::Ip, ip(name.content)?),
            0xa0 => {
                let mut other = Reader::new(name.content);
                let id = dotted(other.expect(tag::OID)?);
                let value = other.enter(0xa0)?.element()?;
                (SanKind::Other(id), string(&value)?)
            }
            _ => return None,
        };
        Some(Self { kind, value })
    }
}

fn ip(octets: &[u8]) -> Option<String> {
    if let Ok(v4) = <[u8; 4]>::try_from(octets) {
        return Some(Ipv4Addr::from(v4).to_string());
    }
    <[u8; 16]>::try_from(octets).ok().map(|v6| Ipv6Addr::from(v6).to_string())
}

/// Without the zero that keeps a number positive.
pub(super) fn serial(octets: &[u8]) -> String {
    let octets = match octets {
        [0, rest @ ..] if !rest.is_empty() => rest,
        all => all,
    };
    super::hex(octets)
}

/// The text of a string, whichever of ASN.1's kinds it is.
fn string(value: &Element<'_>) -> Option<String> {
    match value.tag {
        tag::UTF8_STRING => String::from_utf8(value.content.to_vec()).ok(),
        tag::PRINTABLE_STRING | tag::T61_STRING | tag::IA5_STRING => {
            Some(value.content.iter().copied().map(char::from).collect())
        }
        tag::BMP_STRING => {
            let units = value.content.chunks_exact(2).map(|unit| u16::from_be_bytes([unit[0], unit[1]]));
            String::from_utf16(&units.collect::<Vec<_>>()).ok()
        }
        tag::UNIVERSAL_STRING => {
            let letters = value.content.chunks_exact(4);
            letters
                .map(|four| char::from_u32(u32::from_be_bytes([four[0], four[1], four[2], four[3]])))
                .collect()
        }
        _ => None,
    }
}

/// Names of attributes that have short ones.
fn attribute(id: &[u8]) -> Option<&'static str> {
    Some(match id {
        [0x55, 4, 3] => "CN",
        [0x55, 4, 4] => "SN",
        [0x55, 4, 5] => "serialNumber",
        [0x55, 4, 6] => "C",
        [0x55, 4, 7] => "L",
        [0x55, 4, 8] => "ST",
        [0x55, 4, 9] => "street",
        [0x55, 4, 10] => "O",
        [0x55, 4, 11] => "OU",
        [0x55, 4, 12] => "title",
        [0x55, 4, 13] => "description",
        [0x55, 4, 14] => "searchGuide",
        [0x55, 4, 15] => "businessCategory",
        [0x55, 4, 16] => "postalAddress",
        [0x55, 4, 17] => "postalCode",
        [0x55, 4, 18] => "postOfficeBox",
        [0x55, 4, 19] => "physicalDeliveryOfficeName",
        [0x55, 4, 20] => "telephoneNumber",
        [0x55, 4, 22] => "teletexTerminalIdentifier",
        [0x55, 4, 24] => "x121Address",
        [0x55, 4, 26] => "registeredAddress",
        [0x55, 4, 27] => "destinationIndicator",
        [0x55, 4, 31] => "member",
        [0x55, 4, 35] => "userPassword",
        [0x55, 4, 41] => "name",
        [0x55, 4, 42] => "GN",
        [0x55, 4, 43] => "initials",
        [0x55, 4, 44] => "generationQualifier",
        [0x55, 4, 45] => "x500UniqueIdentifier",
        [0x55, 4, 46] => "dnQualifier",
        [0x55, 4, 47] => "enhancedSearchGuide",
        [0x55, 4, 51] => "houseIdentifier",
        [0x55, 4, 52] => "supportedAlgorithms",
        [0x55, 4, 54] => "dmdName",
        [0x55, 4, 65] => "pseudonym",
        [0x55, 4, 72] => "role",
        [0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 1] => "UID",
        [0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 3] => "mail",
        [0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 25] => "DC",
        [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 1] => "emailAddress",
        [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 2] => "unstructuredName",
        [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 7] => "challengePassword",
        [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 8] => "unstructuredAddress",
        _ => return None,
    })
}

/// A name as RFC 2253 writes it: the last part first, within a part of several values too.
fn name(content: &[u8]) -> Option<String> {
    let mut parts = Vec::new();
    for set in Reader::new(content) {
        let mut values = Vec::new();
        for pair in Reader::new(set.content) {
            let mut pair = Reader::new(pair.content);
            let id = pair.expect(tag::OID)?;
            let value = pair.element()?;
            let mut text = attribute(id).map_or_else(|| dotted(id), str::to_owned);
            text.push('=');
            match string(&value).filter(|_| attribute(id).is_some()) {
                Some(value) => escape(&value, &mut text),
                None => {
                    let _ = write!(text, "#{}", super::hex(value.whole).to_uppercase());
                }
            }
            values.push(text);
        }
        values.reverse();
        parts.push(values.join("+"));
    }
    parts.reverse();
    Some(parts.join(","))
}

/// Escapes what RFC 2253 gives a meaning, and octets beyond ASCII as OpenSSL does.
fn escape(value: &str, out: &mut String) {
    let last = value.len().saturating_sub(1);
    for (at, octet) in value.bytes().enumerate() {
        match octet {
            b',' | b'+' | b'"' | b'\\' | b'<' | b'>' | b';' => {
                out.push('\\');
                out.push(char::from(octet));
            }
            b'#' if at == 0 => out.push_str("\\#"),
            b' ' if at == 0 || at == last => out.push_str("\\ "),
            b' '..=b'~' => out.push(char::from(octet)),
            other => {
                let _ = write!(out, "\\{other:02X}");
            }
        }
    }
}

fn common_name(content: &[u8]) -> Option<String> {
    for set in Reader::new(content) {
        for pair in Reader::new(set.content) {
            let mut pair = Reader::new(pair.content);
            if pair.expect(tag::OID)? == oid::COMMON_NAME {
                return string(&pair.element()?);
            }
        }
    }
    None
}

/// When a list of revoked certificates was issued, and when the next one is due (`thisUpdate`, `nextUpdate`), in seconds since 1970.
pub fn list_issued_and_due(der: &[u8]) -> Option<(i64, i64)> {
    let mut list = Reader::new(der).enter(tag::SEQUENCE)?.enter(tag::SEQUENCE)?;
    list.optional(tag::INTEGER);
    list.expect(tag::SEQUENCE)?;
    list.expect(tag::SEQUENCE)?;
    Some((time(&list.element()?)?, time(&list.element()?)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn der(tag: u8, content: &[u8]) -> Vec<u8> {
        let length = u8::try_from(content.len()).unwrap();
        [&[tag, length], content].concat()
    }

    fn pair(id: &[u8], value: &str) -> Vec<u8> {
        der(tag::SEQUENCE, &[der(tag::OID, id), der(12, value.as_bytes())].concat())
    }

    /// As Envoy 1.40 prints `%DOWNSTREAM_LOCAL_SUBJECT%` of a certificate with these.
    #[test]
    fn parts_of_several_values_and_unknown_ones_are_written_as_envoy_does() {
        let set = |pairs: &[Vec<u8>]| der(0x31, &pairs.concat());
        let several =
            set(&[pair(&[0x55, 4, 10], "org"), pair(&[0x55, 4, 11], "unit"), pair(&[0x55, 4, 3], "multi")]);
        let unknown = set(&[pair(&[0x2a, 3, 4, 5], "41")]);
        let known = set(&[pair(&[0x55, 4, 65], "a,b")]);
        let written = name(&[several, unknown, known].concat()).unwrap();
        assert_eq!(written, "pseudonym=a\\,b,1.2.3.4.5=#0C023431,CN=multi+OU=unit+O=org");
    }

    #[test]
    fn values_are_escaped() {
        let escaped = |value: &str| {
            let mut text = String::new();
            escape(value, &mut text);
            text
        };
        assert_eq!(escaped("a,b+c\"d\\e<f>g;h#"), "a\\,b\\+c\\\"d\\\\e\\<f\\>g\\;h#");
        assert_eq!(escaped("#a "), "\\#a\\ ");
        assert_eq!(escaped("ü"), "\\C3\\BC");
        assert_eq!(escaped(""), "");
    }

    #[test]
    fn serial_numbers() {
        assert_eq!(serial(&[0]), "00");
        assert_eq!(serial(&[0, 0x80, 1]), "8001");
        assert_eq!(serial(&[1, 2]), "0102");
    }

    #[test]
    fn garbage_is_no_certificate() {
        assert_eq!(Certificate::parse(&[]), None);
        assert_eq!(Certificate::parse(&[0x30, 2, 0x30, 0]), None);
        assert_eq!(Certificate::parse(&[0x30; 64]), None);
    }
}
