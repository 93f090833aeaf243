//! The Huffman code of HPACK (RFC 7541, 5.2 and appendix B).
//!
//! It is canonical: codes of one length follow each other in the order of their symbols, and longer ones go on where shorter ones
//! end. The lengths alone therefore say it all, and the tables are made of them when this is compiled.

use super::Malformed;

/// The symbol that ends a string, and never occurs.
const EOS: usize = 256;
/// Length of the longest code.
const LONGEST: usize = 30;

/// Length of the code of each symbol, in bits.
#[rustfmt::skip]
const LENGTHS: [u8; EOS + 1] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28,
    28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11,
    10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8,
    15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, 15, 5, 6, 5,
    6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7,
    7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23,
    23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21,
    23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23, 26, 26, 20, 19, 22, 23, 22, 25,
    26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26,
    28, 27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26, 30,
];

/// Codes by their length: those of `n` bits begin with `first[n]`, and are those of the symbols from `offset[n]` on in `order`.
struct Tables {
    codes: [u32; EOS + 1],
    order: [u16; EOS + 1],
    first: [u32; LONGEST + 2],
    offset: [usize; LONGEST + 2],
}

static TABLES: Tables = tables();

const fn tables() -> Tables {
    let mut tables = Tables {
        codes: [0; EOS + 1],
        order: [0; EOS + 1],
        first: [0; LONGEST + 2],
        offset: [0; LONGEST + 2],
    };
    let (mut length, mut code, mut at) = (1, 0, 0);
    while length <= LONGEST {
        (tables.first[length], tables.offset[length]) = (code, at);
        let mut symbol = 0;
        while symbol <= EOS {
            if LENGTHS[symbol] as usize == length {
                tables.codes[symbol] = code;
                tables.order[at] = symbol as u16;
                code += 1;
                at += 1;
            }
            symbol += 1;
        }
        code <<= 1;
        length += 1;
    }
    tables.offset[length] = at;
    tables
}

/// How many octets `text` takes.
pub(super) fn length(text: &[u8]) -> usize {
    text.iter().map(|byte| usize::from(LENGTHS[usize::from(*byte)])).sum::<usize>().div_ceil(8)
}

/// Appends the code of `text`.
pub(super) fn encode(text: &[u8], out: &mut Vec<u8>) {
    let (mut bits, mut have) = (0_u64, 0);
    for byte in text {
        let symbol = usize::from(*byte);
        bits = bits << LENGTHS[symbol] | u64::from(TABLES.codes[symbol]);
        have += u32::from(LENGTHS[symbol]);
        while have >= 8 {
            have -= 8;
            out.push((bits >> have) as u8);
        }
    }
    if have > 0 {
        // the beginning of EOS fills the last octet
        out.push((bits << (8 - have)) as u8 | 0xff >> have);
    }
}

/// Appends the text of `code`.
pub(super) fn decode(code: &[u8], out: &mut Vec<u8>) -> Result<(), Malformed> {
    let mut rest = code.iter();
    let (mut bits, mut have) = (0_u64, 0);
    loop {
        while have <= 32
            && let Some(byte) = rest.next()
        {
            bits = bits << 8 | u64::from(*byte);
            have += 8;
        }
        let Some((symbol, length)) = symbol(bits, have) else { break };
        out.push(u8::try_from(symbol).map_err(|_| Malformed)?);
        have -= length;
    }
    // What is left is the beginning of EOS, and no whole octet of it.
    let padding = (1 << have) - 1;
    if have < 8 && bits & padding == padding { Ok(()) } else { Err(Malformed) }
}

/// The symbol at the beginning of the last `have` bits, and the length of its code.
fn symbol(bits: u64, have: usize) -> Option<(u16, usize)> {
    (5..=LONGEST.min(have)).find_map(|length| {
        let code = (bits >> (have - length)) as u32 & ((1 << length) - 1);
        let at = TABLES.offset[length] + code.checked_sub(TABLES.first[length])? as usize;
        (at < TABLES.offset[length + 1]).then(|| (TABLES.order[at], length))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn examples_of_the_rfc() {
        // RFC 7541, appendix C.4 and C.6.
        for (text, code) in [
            (
                "www.example.com",
                &[0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff][..],
            ),
            ("no-cache", &[0xa8, 0xeb, 0x10, 0x64, 0x9c, 0xbf]),
            ("302", &[0x64, 0x02]),
            ("", &[]),
        ] {
            let (mut encoded, mut decoded) = (Vec::new(), Vec::new());
            encode(text.as_bytes(), &mut encoded);
            assert_eq!(encoded, code, "{text}");
            assert_eq!(length(text.as_bytes()), code.len(), "{text}");
            decode(code, &mut decoded).unwrap();
            assert_eq!(decoded, text.as_bytes());
        }
        // Ends of the table in appendix B.
        assert_eq!(
            (TABLES.codes[0], TABLES.codes[255], TABLES.codes[EOS]),
            (0x1ff8, 0x3ff_ffee, 0x3fff_ffff)
        );
    }

    #[test]
    fn every_octet_comes_back() {
        let text: Vec<u8> = (0..=255).chain((0..=255).rev()).collect();
        let (mut encoded, mut decoded) = (Vec::new(), Vec::new());
        encode(&text, &mut encoded);
        decode(&encoded, &mut decoded).unwrap();
        assert_eq!(decoded, text);
    }

    #[test]
    fn what_is_no_code() {
        for code in [
            // padding that is not the beginning of EOS, padding of a whole octet, EOS, a code that is cut off
            &[0x1e][..],
            &[0x1f, 0xff],
            &[0xff, 0xff, 0xff, 0xff],
            &[0xff, 0xfe],
        ] {
            assert_eq!(decode(code, &mut Vec::new()), Err(Malformed), "{code:?}");
        }
    }
}
