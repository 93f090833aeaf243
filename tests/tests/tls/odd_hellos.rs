//! First messages of clients that are odd: names that are none, too many extensions, values that mean nothing (GREASE, RFC 8701), a
//! hello of SSL 2. Both programs lead each to the same chain, or refuse it.

use std::collections::BTreeMap;

use integration::client::Client;
use integration::config::{HttpListener, indent, tcp_proxy};
use integration::expect::SOON;
use integration::process::Binary;
use integration::tls::{Authority, ClientOptions, Wanted, converse, downstream};
use rustls::ClientConnection;
use rustls::pki_types::ServerName;
use rustls::version::TLS12;

use crate::{GET, both, start};

/// The number of the extension that names the server (RFC 6066, 3).
const NAMES: u16 = 0;

/// A hello of TLS 1.2, taken apart.
struct Hello {
    before: Vec<u8>,
    extensions: Vec<(u16, Vec<u8>)>,
}

/// Reads a number of two octets, and takes it off.
fn take_u16(bytes: &mut &[u8]) -> u16 {
    let (number, rest) = bytes.split_first_chunk().unwrap();
    *bytes = rest;
    u16::from_be_bytes(*number)
}

fn with_length(bytes: &[u8]) -> Vec<u8> {
    [&u16::try_from(bytes.len()).unwrap().to_be_bytes()[..], bytes].concat()
}

impl Hello {
    /// That of a usual client, which names nobody.
    fn usual() -> Self {
        let config = ClientOptions { versions: vec![&TLS12], ..ClientOptions::default() }.config().unwrap();
        let mut session = ClientConnection::new(config, ServerName::try_from("a.test").unwrap()).unwrap();
        let mut bytes = Vec::new();
        session.write_tls(&mut bytes).unwrap();
        let body = &bytes[9..];
        // Version, random, session, suites, compressions.
        let mut at = 34 + 1 + usize::from(body[34]);
        at += 2 + usize::from(u16::from_be_bytes([body[at], body[at + 1]]));
        at += 1 + usize::from(body[at]);
        let (before, mut rest) = body.split_at(at);
        let mut extensions = Vec::new();
        let _length = take_u16(&mut rest);
        while !rest.is_empty() {
            let (kind, length) = (take_u16(&mut rest), take_u16(&mut rest));
            let (extension, after) = rest.split_at(length.into());
            extensions.push((kind, extension.to_vec()));
            rest = after;
        }
        extensions.retain(|(kind, _)| *kind != NAMES);
        Self { before: before.to_vec(), extensions }
    }

    fn with(mut self, kind: u16, extension: Vec<u8>) -> Self {
        self.extensions.insert(0, (kind, extension));
        self
    }

    /// With a list of these names, each of such a kind.
    fn naming(self, names: &[(u8, &[u8])]) -> Self {
        let names: Vec<u8> =
            names.iter().flat_map(|(kind, name)| [vec![*kind], with_length(name)].concat()).collect();
        self.with(NAMES, with_length(&names))
    }

    /// In records.
    fn bytes(&self) -> Vec<u8> {
        let all = self.extensions.iter();
        let all: Vec<u8> = all
            .flat_map(|(kind, bytes)| [kind.to_be_bytes().to_vec(), with_length(bytes)].concat())
            .collect();
        let body = [&self.before[..], &with_length(&all)].concat();
        let head = u32::try_from(body.len()).unwrap() | 1 << 24;
        let message = [&head.to_be_bytes()[..], &body].concat();
        message.chunks(16 << 10).flat_map(|part| [vec![22, 3, 1], with_length(part)].concat()).collect()
    }
}

fn hellos() -> Vec<(&'static str, Vec<u8>)> {
    let named = |name: &[u8]| Hello::usual().naming(&[(0, name)]).bytes();
    let grease = |hello: Hello| hello.with(0x0a0a, vec![]).with(0x1a1a, vec![0]);
    let many = (0..300).fold(Hello::usual(), |hello, number| hello.with(0x4000 + number, vec![7; 8]));
    vec![
        ("no name", Hello::usual().bytes()),
        ("the name", named(b"a.test")),
        ("capitals", named(b"A.TEST")),
        ("a dot behind", named(b"a.test.")),
        ("a NUL behind", named(b"a.test\0")),
        ("a NUL within", named(b"a.test\0.other.test")),
        ("an address", named(b"127.0.0.1")),
        ("an address of IPv6", named(b"::1")),
        ("an underscore", named(b"a_b.test")),
        ("a wildcard", named(b"*.test")),
        ("a space", named(b"a test")),
        ("not ASCII", named(b"\xff\xfe.test")),
        ("an empty name", named(b"")),
        ("255 octets", named(&[b'x'; 255])),
        ("300 octets", named(&[b'x'; 300])),
        ("60 labels", named("abc.".repeat(60).trim_end_matches('.').as_bytes())),
        ("no names", Hello::usual().naming(&[]).bytes()),
        ("two names", Hello::usual().naming(&[(0, b"a.test"), (0, b"b.test")]).bytes()),
        ("a name of another kind", Hello::usual().naming(&[(1, b"a.test")]).bytes()),
        ("a list that is cut off", Hello::usual().with(NAMES, vec![0, 9, 0, 0, 6, b'a']).bytes()),
        ("names twice", Hello::usual().naming(&[(0, b"a.test")]).naming(&[(0, b"a.test")]).bytes()),
        ("values that mean nothing", grease(Hello::usual()).naming(&[(0, b"a.test")]).bytes()),
        ("300 extensions", many.naming(&[(0, b"a.test")]).bytes()),
        ("a hello of SSL 2", [&[0x80, 46, 1, 3, 1, 0, 21, 0, 0, 0, 16][..], &[0; 37]].concat()),
    ]
}

/// What comes back.
fn kind(answer: &[u8]) -> String {
    let names = |word: &str| answer.windows(word.len()).any(|window| window == word.as_bytes());
    match answer {
        [] => "closed".to_owned(),
        // (Which alert is the library's to say.)
        [21, ..] => "refused".to_owned(),
        [22, ..] if names("the-named-one") => "the chain of the name".to_owned(),
        [22, ..] if names("the-other-one") => "the other chain".to_owned(),
        _ => format!("{answer:?}"),
    }
}

async fn answer(client: &mut Client) -> String {
    let mut all = Vec::new();
    while let Ok(more) = client.at_least(1, SOON).await {
        all.extend(more);
        let kind = kind(&all);
        if all.len() >= 7 && !kind.starts_with('[') {
            return kind;
        }
    }
    kind(&all)
}

async fn taken(binary: &Binary) -> BTreeMap<&'static str, String> {
    let root = Authority::new("root").unwrap();
    let transport = |common_name| {
        let identity = root.issue(&Wanted { common_name, ..Wanted::default() }).unwrap();
        downstream(&format!("tls_certificates: [{}]", identity.inline()), "")
    };
    let other = format!(
        "default_filter_chain:\n  filters:\n{}{}",
        indent(&tcp_proxy("other", "cluster: up"), 2),
        indent(&transport("the-other-one"), 2)
    );
    let inspector = "stat_prefix: l\nlistener_filters:\n- name: i\n  typed_config: {\"@type\": type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector}\n";
    let listener = HttpListener::to_up("l")
        .chain(&format!("filter_chain_match: {{server_names: [a.test]}}\n{}", transport("the-named-one")))
        .listener(&format!("{inspector}{other}"))
        .yaml();
    let (proxy, _upstream) = start(binary, &[listener]).await;
    let addr = proxy.listener("l").unwrap();
    let mut answers = BTreeMap::new();
    for (name, bytes) in hellos() {
        let mut client = Client::connect(addr).await.unwrap();
        client.send(&bytes).await.unwrap();
        answers.insert(name, answer(&mut client).await);
    }
    let outcome = converse(addr, &ClientOptions::default(), GET, "").await.unwrap();
    assert!(outcome.answer.starts_with("HTTP/1.1 200"), "{outcome:?}");
    answers
}

/// Names that are no host names (RFC 6066, 3), which `rustls` refuses and Envoy takes as it takes names that it does not know.
const NO_HOST_NAMES: [&str; 4] = ["a space", "a wildcard", "not ASCII", "255 octets"];

#[tokio::test(flavor = "multi_thread")]
async fn odd_hellos_are_taken_as_by_envoy() {
    let [theirs, ours] = both();
    let (mut theirs, ours) = (taken(&theirs).await, taken(&ours).await);
    for name in NO_HOST_NAMES {
        assert_eq!(theirs.insert(name, "refused".to_owned()).as_deref(), Some("the other chain"), "{name}");
    }
    assert_eq!(theirs, ours);
}
