//! ClientHellos made of parts, sound and not, in records cut anywhere. What is sound is found as it was made, what is read does not
//! change with what comes after it, and where the TLS library takes a hello, too, both name the same server and the same protocols: filter
//! chains and certificates are chosen for one and the same.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use proxy_core::tls::client_hello::{Parsed, parse};
use rustls::server::Acceptor;

const LONGEST: usize = 16 << 10;

const VERSIONS: [u16; 6] = [0x0303, 0x0301, 0x0304, 0x0302, 0x0300, 0x7f1c];
const SUITES: [u16; 6] = [0x1301, 0xc02b, 0xc02f, 0x00ff, 0x0a0a, 0x0035];
const GROUPS: [u16; 4] = [0x001d, 0x0017, 0x11ec, 0x2a2a];
const SIGNATURES: [u16; 4] = [0x0403, 0x0804, 0x0401, 0x0203];
const NAMES: [&str; 8] =
    ["a.test", "B.Test", "xn--e1afmkfd.test", "1.2.3.4", "*.a.test", "a..test", "a.test.", "sni.mesh.80"];
const PROTOCOLS: [&str; 6] = ["h2", "http/1.1", "istio-peer-exchange", "istio", "acme-tls/1", ""];

#[derive(Arbitrary, Debug)]
struct Hello {
    version: u8,
    session: u8,
    suites: Vec<u8>,
    compressions: Vec<u8>,
    extensions: Vec<Extension>,
    /// Octets behind the last extension.
    rest: Vec<u8>,
}

#[derive(Arbitrary, Debug)]
enum Extension {
    ServerName(Vec<(u8, Name)>),
    Protocols(Vec<Name>),
    Versions(Vec<u8>),
    Groups(Vec<u8>),
    Signatures(Vec<u8>),
    KeyShares(Vec<(u8, Vec<u8>)>),
    Status(Vec<u8>),
    Other(u16, Vec<u8>),
}

#[derive(Arbitrary, Debug)]
enum Name {
    Known(u8),
    Other(Vec<u8>),
}

#[derive(Arbitrary, Debug)]
struct Input {
    hello: Hello,
    /// Sizes of the records, the last one again for all that is left.
    records: Vec<u16>,
    /// Octets that are others.
    spoiled: Vec<(u16, u8)>,
    cuts: Vec<u16>,
}

fuzz_target!(|input: Input| {
    let message = message(&input.hello);
    let mut bytes = in_records(&message, &input.records);
    for (at, by) in input.spoiled.iter().take(4) {
        let at = usize::from(*at) % bytes.len().max(1);
        if let Some(octet) = bytes.get_mut(at) {
            *octet = octet.wrapping_add(*by);
        }
    }
    let is_spoiled = input.spoiled.iter().take(4).any(|(_, by)| *by != 0);
    let verdict = read(&bytes);
    for cut in input.cuts.iter().take(16).map(|cut| usize::from(*cut) % (bytes.len() + 1)) {
        let early = read(&bytes[..cut]);
        assert!(early == Verdict::More || early == verdict, "{early:?} of {cut} octets, {verdict:?} of all");
    }
    if !is_spoiled && let Some(expected) = input.hello.sound() {
        assert_eq!(verdict, expected);
    }
    if let (Verdict::Hello { name, protocols }, Some((library_name, library_protocols))) =
        (&verdict, by_library(&bytes))
    {
        if let Some(library_name) = library_name {
            let name = name.as_deref().map(str::to_ascii_lowercase);
            assert_eq!(name, Some(library_name.to_ascii_lowercase()));
        }
        if let Some(library_protocols) = library_protocols {
            assert_eq!(*protocols, library_protocols);
        }
    }
});

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Hello { name: Option<String>, protocols: Vec<Vec<u8>> },
    Other,
    More,
}

fn read(bytes: &[u8]) -> Verdict {
    match parse(bytes, LONGEST, &mut Vec::new()) {
        Parsed::Hello(hello, length) => {
            assert!(length <= bytes.len());
            Verdict::Hello {
                name: hello.server_name.map(str::to_owned),
                protocols: hello.protocols.iter().map(|one| one.to_vec()).collect(),
            }
        }
        Parsed::Other => Verdict::Other,
        Parsed::More => Verdict::More,
    }
}

/// The name and the protocols as the TLS library reads them, if it takes the hello.
fn by_library(mut bytes: &[u8]) -> Option<(Option<String>, Option<Vec<Vec<u8>>>)> {
    let mut acceptor = Acceptor::default();
    while !bytes.is_empty() {
        acceptor.read_tls(&mut bytes).ok().filter(|count| *count > 0)?;
        if let Some(accepted) = acceptor.accept().ok()? {
            let hello = accepted.client_hello();
            let protocols = hello.alpn().map(|all| all.map(<[u8]>::to_vec).collect());
            return Some((hello.server_name().map(str::to_owned), protocols));
        }
    }
    None
}

impl Name {
    fn of(&self, known: &[&str]) -> Vec<u8> {
        match self {
            Self::Known(which) => known[usize::from(*which) % known.len()].as_bytes().to_vec(),
            Self::Other(octets) => octets[..octets.len().min(255)].to_vec(),
        }
    }
}

impl Hello {
    /// What is in it, if every part of it is as it has to be.
    fn sound(&self) -> Option<Verdict> {
        let mut kinds: Vec<u16> = self.extensions.iter().map(Extension::kind).collect();
        kinds.sort_unstable();
        kinds.dedup();
        let is_sound = kinds.len() == self.extensions.len()
            && self.rest.is_empty()
            && self.compressions.iter().take(255).any(|one| *one == 0)
            && !self.suites.is_empty()
            && message(self).len() <= LONGEST;
        let mut verdict = (None, Vec::new());
        for extension in &self.extensions {
            match extension {
                Extension::ServerName(names) => {
                    let [(0, Name::Known(which))] = names[..] else { return None };
                    verdict.0 = Some(NAMES[usize::from(which) % NAMES.len()].to_owned());
                }
                Extension::Protocols(names) => {
                    verdict.1 = names.iter().take(8).map(|name| name.of(&PROTOCOLS)).collect();
                    if verdict.1.is_empty() || verdict.1.iter().any(Vec::is_empty) {
                        return None;
                    }
                }
                Extension::Status(_) | Extension::Other(0 | 5 | 16, _) => return None,
                _ => {}
            }
        }
        is_sound.then_some(Verdict::Hello { name: verdict.0, protocols: verdict.1 })
    }
}

impl Extension {
    fn kind(&self) -> u16 {
        match self {
            Self::ServerName(_) => 0,
            Self::Status(_) => 5,
            Self::Groups(_) => 10,
            Self::Signatures(_) => 13,
            Self::Protocols(_) => 16,
            Self::Versions(_) => 43,
            Self::KeyShares(_) => 51,
            Self::Other(kind, _) => *kind,
        }
    }

    fn body(&self) -> Vec<u8> {
        let words = |known: &[u16], all: &[u8]| -> Vec<u8> {
            let one = |which: &u8| known[usize::from(*which) % known.len()].to_be_bytes();
            all.iter().take(64).flat_map(one).collect()
        };
        match self {
            Self::ServerName(names) => {
                let one = |(kind, name): &(u8, Name)| [vec![*kind], long(name.of(&NAMES))].concat();
                long(names.iter().take(4).flat_map(one).collect())
            }
            Self::Protocols(names) => {
                long(names.iter().take(8).flat_map(|name| short(name.of(&PROTOCOLS))).collect())
            }
            Self::Versions(all) => short(words(&VERSIONS, all)),
            Self::Groups(all) => long(words(&GROUPS, all)),
            Self::Signatures(all) => long(words(&SIGNATURES, all)),
            Self::KeyShares(all) => {
                let one =
                    |(group, key): &(u8, Vec<u8>)| [words(&GROUPS, &[*group]), long(key.clone())].concat();
                long(all.iter().take(3).flat_map(one).collect())
            }
            Self::Status(octets) | Self::Other(_, octets) => octets.clone(),
        }
    }
}

/// With its length in one octet.
fn short(mut body: Vec<u8>) -> Vec<u8> {
    body.truncate(255);
    body.insert(0, body.len() as u8);
    body
}

/// With its length in two.
fn long(mut body: Vec<u8>) -> Vec<u8> {
    body.truncate(0xffff);
    let length = (body.len() as u16).to_be_bytes();
    body.splice(0..0, length);
    body
}

fn message(hello: &Hello) -> Vec<u8> {
    let mut body = VERSIONS[usize::from(hello.version) % VERSIONS.len()].to_be_bytes().to_vec();
    body.extend([7; 32]);
    body.extend(short(vec![9; usize::from(hello.session % 33)]));
    let suite = |which: &u8| SUITES[usize::from(*which) % SUITES.len()].to_be_bytes();
    body.extend(long(hello.suites.iter().take(64).flat_map(suite).collect()));
    body.extend(short(hello.compressions.clone()));
    let one =
        |extension: &Extension| [extension.kind().to_be_bytes().to_vec(), long(extension.body())].concat();
    if !hello.extensions.is_empty() {
        body.extend(long(hello.extensions.iter().flat_map(one).collect()));
    }
    body.extend(&hello.rest);
    let length = (body.len() as u32).to_be_bytes();
    [vec![1], length[1..].to_vec(), body].concat()
}

fn in_records(message: &[u8], sizes: &[u16]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = message;
    let mut sizes = sizes.iter().map(|size| usize::from(*size)).take(24);
    let mut size = usize::MAX;
    while !rest.is_empty() {
        size = sizes.next().unwrap_or(size.max(1));
        let (record, after) = rest.split_at(size.min(rest.len()).min(16 << 10));
        bytes.extend([22, 3, 1]);
        bytes.extend(long(record.to_vec()));
        rest = after;
    }
    bytes
}
