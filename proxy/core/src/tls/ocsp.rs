//! What an OCSP response says of one certificate (RFC 6960). It is read, not verified: who staples it has it from a source that is
//! trusted, and who is shown it verifies it.

use super::der::{Element, Reader, tag, time};
use super::x509::serial;

/// A response about one certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OcspResponse {
    /// The serial number of the certificate, hexadecimal.
    pub serial: String,
    /// Seconds since 1970 as of which it was true.
    pub this_update: i64,
    /// Seconds since 1970 up to which it holds; without one there is always something newer.
    pub next_update: Option<i64>,
}

const ENUMERATED: u8 = 0x0a;
/// `id-pkix-ocsp-basic`, 1.3.6.1.5.5.7.48.1.1.
const BASIC: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 0x30, 1, 1];

impl OcspResponse {
    /// Reads a response.
    ///
    /// # Errors
    /// What is wrong with it; where Envoy has words for that, in those.
    pub fn parse(der: &[u8]) -> Result<Self, &'static str> {
        let mut all = Reader::new(der);
        let mut response =
            all.enter(tag::SEQUENCE).ok_or("OCSP Response is not a well-formed ASN.1 SEQUENCE")?;
        if !all.is_empty() {
            return Err("Data contained more than a single OCSP response");
        }
        let status =
            response.expect(ENUMERATED).ok_or("OCSP ResponseStatus is not a well-formed ASN.1 ENUMERATED")?;
        if status != [0] {
            return Err("OCSP response was unsuccessful");
        }
        let Some(body) = response.optional(0xa0) else { return Err("OCSP response has no body") };
        let mut answers = answers(body.content).ok_or("OCSP ResponseData is not well-formed")?;
        let answer = answers.element().ok_or("OCSP Response must be for one certificate only")?;
        if !answers.is_empty() {
            return Err("OCSP Response must be for one certificate only");
        }
        Self::read(&answer).ok_or("OCSP SingleResponse is not well-formed")
    }

    /// `SingleResponse`.
    fn read(answer: &Element<'_>) -> Option<Self> {
        let mut fields = Reader::new(answer.content);
        let mut id = fields.enter(tag::SEQUENCE)?;
        id.expect(tag::SEQUENCE)?;
        id.expect(tag::OCTET_STRING)?;
        id.expect(tag::OCTET_STRING)?;
        let serial = serial(id.expect(tag::INTEGER)?);
        // good, revoked, unknown
        fields.element().filter(|status| [0x80, 0xa1, 0x82].contains(&status.tag))?;
        let this_update = general(&fields.element()?)?;
        let next_update = match fields.optional(0xa0) {
            Some(next) => Some(general(&Reader::new(next.content).element()?)?),
            None => None,
        };
        Some(Self { serial, this_update, next_update })
    }

    /// Whether it holds no more at a time, in seconds since 1970.
    pub fn is_expired_at(&self, now: i64) -> bool {
        self.next_update.is_none_or(|next| next < now)
    }
}

fn general(element: &Element<'_>) -> Option<i64> {
    if element.tag == tag::GENERALIZED_TIME { time(element) } else { None }
}

/// The answers within `ResponseBytes`.
fn answers(body: &[u8]) -> Option<Reader<'_>> {
    let mut body = Reader::new(body).enter(tag::SEQUENCE)?;
    if body.expect(tag::OID)? != BASIC {
        return None;
    }
    let basic = body.expect(tag::OCTET_STRING)?;
    let mut data = Reader::new(basic).enter(tag::SEQUENCE)?.enter(tag::SEQUENCE)?;
    if let Some(version) = data.optional(0xa0)
        && Reader::new(version.content).expect(tag::INTEGER)? != [0]
    {
        return None;
    }
    // whose answer it is: a name, or the digest of a key
    data.element().filter(|responder| [0xa1, 0xa2].contains(&responder.tag))?;
    data.expect(tag::GENERALIZED_TIME)?;
    data.enter(tag::SEQUENCE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn element(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
        let content = parts.concat();
        let mut all = vec![tag, 0x82];
        all.extend(u16::try_from(content.len()).unwrap().to_be_bytes());
        all.extend(content);
        all
    }

    fn answer(serial: u8, next: Option<&str>) -> Vec<u8> {
        let octets = element(tag::OCTET_STRING, &[&[7; 20]]);
        let id = element(
            tag::SEQUENCE,
            &[&element(tag::SEQUENCE, &[]), &octets, &octets, &element(tag::INTEGER, &[&[serial]])],
        );
        let at = |text: &str| element(tag::GENERALIZED_TIME, &[text.as_bytes()]);
        let next = next.map(|next| element(0xa0, &[&at(next)])).unwrap_or_default();
        element(tag::SEQUENCE, &[&id, &[0x80, 0], &at("20200101000000Z"), &next])
    }

    fn response(status: u8, answers: &[Vec<u8>]) -> Vec<u8> {
        let answers: Vec<&[u8]> = answers.iter().map(Vec::as_slice).collect();
        let data = element(
            tag::SEQUENCE,
            &[
                &element(0xa2, &[&element(tag::OCTET_STRING, &[&[1; 20]])]),
                &element(tag::GENERALIZED_TIME, &[b"20200101000000Z"]),
                &element(tag::SEQUENCE, &answers),
            ],
        );
        let basic = element(tag::SEQUENCE, &[&data]);
        let bytes =
            element(tag::SEQUENCE, &[&element(tag::OID, &[BASIC]), &element(tag::OCTET_STRING, &[&basic])]);
        element(tag::SEQUENCE, &[&[ENUMERATED, 1, status], &element(0xa0, &[&bytes])])
    }

    #[test]
    fn what_a_response_says() {
        let read = OcspResponse::parse(&response(0, &[answer(9, Some("20210101000000Z"))])).unwrap();
        assert_eq!((read.serial.as_str(), read.this_update), ("09", 1_577_836_800));
        assert_eq!(read.next_update, Some(1_609_459_200));
        assert!(!read.is_expired_at(1_609_459_200) && read.is_expired_at(1_609_459_201));
        let read = OcspResponse::parse(&response(0, &[answer(9, None)])).unwrap();
        assert!(read.is_expired_at(0), "there is always something newer");
    }

    #[test]
    fn what_is_no_response_about_one_certificate() {
        let one = answer(9, None);
        let refused = |der: &[u8]| OcspResponse::parse(der).unwrap_err();
        assert_eq!(refused(&response(1, std::slice::from_ref(&one))), "OCSP response was unsuccessful");
        assert_eq!(refused(&response(0, &[])), "OCSP Response must be for one certificate only");
        assert_eq!(
            refused(&response(0, &[one.clone(), one.clone()])),
            "OCSP Response must be for one certificate only"
        );
        let whole = response(0, &[one]);
        for length in 0..whole.len() {
            assert!(OcspResponse::parse(&whole[..length]).is_err(), "{length}");
        }
        assert!(refused(&[whole, vec![0]].concat()).starts_with("Data contained more"));
    }
}
