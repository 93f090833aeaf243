use std::io::Read;

use bytes::Bytes;
use http::header::{ACCEPT_ENCODING, CONTENT_TYPE};
use proptest::prelude::*;
use proxy_core::config::BuildCx;
use proxy_core::extension::http_filter::{DataStep, HttpFilter, HttpFilterExtension};
use proxy_core::stats::Selection;
use xds_api::envoy::extensions::compression::gzip::compressor::v3::Gzip;
use xds_api::envoy::extensions::filters::http::compressor::v3 as proto;

use super::library::Library;
use super::{Compressor, fields};
use crate::testing::{Stream, env, header_map, reply};
use flate2::Compression;

fn libraries() -> Vec<Library> {
    vec![
        Library::Gzip { level: Compression::default(), window_bits: 12 },
        Library::Gzip { level: Compression::new(1), window_bits: 9 },
        Library::Brotli(Box::new(brotli::enc::BrotliEncoderParams {
            quality: 3,
            lgwin: 18,
            lgblock: 24,
            ..Default::default()
        })),
        Library::Zstd { level: 3, checksum: true, strategy: None },
        Library::Zstd { level: 1, checksum: false, strategy: Some(zstd::zstd_safe::Strategy::ZSTD_btlazy2) },
    ]
}

fn decoded(encoding: &str, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    match encoding {
        "gzip" => flate2::read::GzDecoder::new(body).read_to_end(&mut out).unwrap(),
        "br" => brotli::Decompressor::new(body, 4096).read_to_end(&mut out).unwrap(),
        _ => zstd::stream::read::Decoder::new(body).unwrap().read_to_end(&mut out).unwrap(),
    };
    out
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    /// Whatever the pieces, what comes out is what went in; and a piece can be read as soon as it is out.
    #[test]
    fn bodies_come_back(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..9000), 0..6), repeat in 1_usize..4) {
        for library in libraries() {
            let mut encoder = library.start().unwrap();
            let mut sent = Vec::new();
            let mut body = Vec::new();
            for piece in &pieces {
                let piece = piece.repeat(repeat);
                sent.extend_from_slice(&piece);
                body.extend_from_slice(&encoder.compress(&piece, false).unwrap());
                if library.encoding() == "gzip" {
                    let mut so_far = vec![0; sent.len()];
                    flate2::read::GzDecoder::new(&body[..]).read_exact(&mut so_far).unwrap();
                    prop_assert_eq!(&so_far, &sent);
                }
            }
            body.extend_from_slice(&encoder.compress(b"", true).unwrap());
            prop_assert_eq!(decoded(library.encoding(), &body), sent);
        }
    }
}

fn filter(env: &proxy_core::config::BuildEnv) -> Box<dyn HttpFilter> {
    use prost::Message;
    let any = prost_types::Any {
        type_url: format!("type.googleapis.com/{}", fields::GZIP),
        value: Gzip::default().encode_to_vec(),
    };
    let proto = proto::Compressor {
        compressor_library: Some(xds_api::envoy::config::core::v3::TypedExtensionConfig {
            name: "text".to_owned(),
            typed_config: Some(any),
        }),
        ..proto::Compressor::default()
    };
    let mut cx = BuildCx::new(env);
    cx.stat_prefix = "http.in.".to_owned();
    let config = Compressor::build(proto, &mut cx).unwrap();
    Compressor::create(&std::sync::Arc::new(config))
}

#[test]
fn the_last_bytes_of_a_body_go_before_its_trailers() {
    let env = env();
    let mut filter = filter(&env);
    let mut stream = Stream::new(&[(ACCEPT_ENCODING.as_str(), "gzip")]);
    assert!(reply(filter.on_request_headers(&mut stream.cx(), true)).is_none());
    stream.respond(http::StatusCode::OK, header_map(&[(CONTENT_TYPE.as_str(), "text/plain")]));
    assert!(reply(filter.on_response_headers(&mut stream.cx(), false)).is_none());
    assert!(stream.phases.response_body);
    assert_eq!(
        stream.response_lines(),
        ["content-type: text/plain", "content-encoding: gzip", "vary: Accept-Encoding"]
    );
    let mut data = Bytes::from_static(b"hello");
    assert!(matches!(filter.on_response_data(&mut stream.cx(), &mut data, false), DataStep::Continue));
    let mut trailers = header_map(&[("a", "b")]);
    assert!(reply(filter.on_response_trailers(&mut stream.cx(), &mut trailers)).is_none());
    let body = [&data[..], &stream.before_trailers[..]].concat();
    assert_eq!(decoded("gzip", &body), b"hello");
    let shown = proxy_core::stats::text::render(&env.stats, &Selection::default());
    for line in [
        "http.in.compressor.text.gzip.compressed: 1",
        "http.in.compressor.text.gzip.header_compressor_used: 1",
        "http.in.compressor.text.gzip.total_uncompressed_bytes: 5",
        "http.in.compressor.text.gzip.request.not_compressed: 1",
    ] {
        assert!(shown.contains(line), "{line} in {shown}");
    }
}
