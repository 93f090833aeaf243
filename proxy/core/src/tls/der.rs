//! Reading DER (X.690): one element after the other, of definite length, without copies.

/// Tags that certificates are made of.
pub mod tag {
    #![allow(missing_docs)]
    pub const BOOLEAN: u8 = 0x01;
    pub const INTEGER: u8 = 0x02;
    pub const BIT_STRING: u8 = 0x03;
    pub const OCTET_STRING: u8 = 0x04;
    pub const OID: u8 = 0x06;
    pub const UTF8_STRING: u8 = 0x0c;
    pub const PRINTABLE_STRING: u8 = 0x13;
    pub const T61_STRING: u8 = 0x14;
    pub const IA5_STRING: u8 = 0x16;
    pub const UTC_TIME: u8 = 0x17;
    pub const GENERALIZED_TIME: u8 = 0x18;
    pub const UNIVERSAL_STRING: u8 = 0x1c;
    pub const BMP_STRING: u8 = 0x1e;
    pub const SEQUENCE: u8 = 0x30;
    pub const SET: u8 = 0x31;
}

/// An element: its tag, its content, and both with the length between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Element<'d> {
    /// The tag; only those of one octet exist here.
    pub tag: u8,
    /// The content.
    pub content: &'d [u8],
    /// The whole element.
    pub whole: &'d [u8],
}

/// What is left to read.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'d>(&'d [u8]);

impl<'d> Reader<'d> {
    /// Reads `bytes`.
    pub fn new(bytes: &'d [u8]) -> Self {
        Self(bytes)
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The tag of the next element.
    pub fn peek(&self) -> Option<u8> {
        self.0.first().copied()
    }

    /// The next element; nothing if there is none, or none that is whole and well-formed.
    pub fn element(&mut self) -> Option<Element<'d>> {
        let (&tag, rest) = self.0.split_first()?;
        if tag & 0x1f == 0x1f {
            return None;
        }
        let (&first, rest) = rest.split_first()?;
        let (length, rest) = match first {
            0..=0x7f => (usize::from(first), rest),
            0x81..=0x84 => {
                let (octets, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
                (octets.iter().fold(0, |length, octet| length << 8 | usize::from(*octet)), rest)
            }
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(length)?;
        let (whole, _) = self.0.split_at_checked(self.0.len() - rest.len())?;
        self.0 = rest;
        Some(Element { tag, content, whole })
    }

    /// The content of the next element, which must have this tag.
    pub fn expect(&mut self, tag: u8) -> Option<&'d [u8]> {
        self.element().filter(|element| element.tag == tag).map(|element| element.content)
    }

    /// Reads what is within the next element, which must have this tag.
    pub fn enter(&mut self, tag: u8) -> Option<Self> {
        self.expect(tag).map(Self)
    }

    /// The next element if it has this tag.
    pub fn optional(&mut self, tag: u8) -> Option<Element<'d>> {
        if self.peek() == Some(tag) { self.element() } else { None }
    }
}

impl<'d> Iterator for Reader<'d> {
    type Item = Element<'d>;

    fn next(&mut self) -> Option<Element<'d>> {
        self.element()
    }
}

/// An object identifier with dots.
pub fn dotted(oid: &[u8]) -> String {
    let mut arcs: Vec<u64> = Vec::new();
    let mut arc = 0_u64;
    for octet in oid {
        arc = arc.wrapping_shl(7) | u64::from(octet & 0x7f);
        if octet & 0x80 == 0 {
            if arcs.is_empty() {
                let first = (arc / 40).min(2);
                arcs.push(first);
                arc -= first * 40;
            }
            arcs.push(arc);
            arc = 0;
        }
    }
    arcs.iter().map(u64::to_string).collect::<Vec<_>>().join(".")
}

/// Seconds since 1970 of a `UTCTime` or `GeneralizedTime`.
pub fn time(element: &Element<'_>) -> Option<i64> {
    let text = std::str::from_utf8(element.content).ok()?.strip_suffix('Z')?;
    let (year, rest) = match element.tag {
        tag::UTC_TIME => {
            let (year, rest) = text.split_at_checked(2)?;
            let year: i64 = year.parse().ok()?;
            (if year < 50 { 2000 + year } else { 1900 + year }, rest)
        }
        tag::GENERALIZED_TIME => {
            let (year, rest) = text.split_at_checked(4)?;
            (year.parse().ok()?, rest)
        }
        _ => return None,
    };
    if rest.len() != 10 || !rest.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let two = |at: usize| rest.get(at..at + 2).and_then(|digits| digits.parse::<i64>().ok());
    let (month, day, hour, minute, second) = (two(0)?, two(2)?, two(4)?, two(6)?, two(8)?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    Some(days_since_1970(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second)
}

/// Days of the Gregorian calendar: years are counted from March, so that the leap day is a year's last.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(tag: u8, text: &str) -> Option<i64> {
        time(&Element { tag, content: text.as_bytes(), whole: &[] })
    }

    #[test]
    fn times() {
        assert_eq!(at(tag::UTC_TIME, "700101000000Z"), Some(0));
        assert_eq!(at(tag::UTC_TIME, "000301000000Z"), Some(951_868_800));
        assert_eq!(at(tag::GENERALIZED_TIME, "20380119031407Z"), Some(i64::from(i32::MAX)));
        assert_eq!(at(tag::GENERALIZED_TIME, "20240229120000Z"), Some(1_709_208_000));
        for wrong in ["", "Z", "700101000000", "701301000000Z", "7001010000Z", "70010100000äZ"] {
            assert_eq!(at(tag::UTC_TIME, wrong), None, "{wrong}");
        }
    }

    #[test]
    fn object_identifiers() {
        assert_eq!(dotted(&[0x55, 4, 3]), "2.5.4.3");
        assert_eq!(dotted(&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 1]), "1.2.840.113549.1.9.1");
        assert_eq!(dotted(&[]), "");
    }

    #[test]
    fn what_is_cut_off_is_nothing() {
        let mut whole = vec![tag::SEQUENCE, 0x82, 1, 0];
        whole.extend([0; 256]);
        assert_eq!(Reader::new(&whole).element().unwrap().content.len(), 256);
        for length in 0..whole.len() {
            assert_eq!(Reader::new(&whole[..length]).element(), None, "{length}");
        }
        assert_eq!(Reader::new(&[tag::SEQUENCE, 0x80, 0, 0]).element(), None, "indefinite");
        assert_eq!(Reader::new(&[0x1f, 0x81, 0x01, 0]).element(), None, "long tag");
    }
}
