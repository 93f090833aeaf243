//! Bodies that go on for as long as somebody listens, through filters that change them: nothing is held back.

use std::io::Read;

use anyhow::{Context, Result, ensure};
use integration::client::Client;
use integration::config::{HttpListener, bootstrap, cluster, fill, port};
use integration::expect::SOON;
use integration::http1::head_length;
use integration::process::{Binary, Proxy};
use integration::upstream::{Reply, Step, Upstream};

const EVENT: &[u8] = b"data: something happened\n\n";
const ROUTE: &str = "- match: {prefix: /}\n  route: {cluster: up, timeout: 0s}\n";

fn compressor(library: &str, message: &str) -> String {
    let api = "\"@type\": type.googleapis.com/envoy.extensions";
    format!(
        "- name: {library}\n  typed_config:\n    {api}.filters.http.compressor.v3.Compressor\n    \
         compressor_library: {{name: text, typed_config: {{{api}.compression.{library}.compressor.v3.{message}}}}}\n    \
         response_direction_config: {{common_config: {{content_type: [text/event-stream]}}}}\n"
    )
}

/// The data of the chunks that are there.
fn data_of(mut chunks: &[u8]) -> Vec<u8> {
    let mut data = Vec::new();
    while let Some(end) = chunks.windows(2).position(|two| two == b"\r\n") {
        let size =
            std::str::from_utf8(&chunks[..end]).ok().and_then(|size| usize::from_str_radix(size, 16).ok());
        let Some(piece) = size.and_then(|size| chunks.get(end + 2..end + 2 + size)) else { break };
        data.extend_from_slice(piece);
        chunks = chunks.get(end + 4 + piece.len()..).unwrap_or_default();
    }
    data
}

/// What of a body that goes on can be read so far.
fn readable(encoding: &str, body: &[u8]) -> Vec<u8> {
    let mut reader: Box<dyn Read + '_> = match encoding {
        "gzip" => Box::new(flate2::read::GzDecoder::new(body)),
        "br" => Box::new(brotli::Decompressor::new(body, 4096)),
        _ => match zstd::stream::read::Decoder::new(body) {
            Ok(decoder) => Box::new(decoder),
            Err(_) => return Vec::new(),
        },
    };
    // (That it breaks off is not the question.)
    let (mut out, mut piece) = (Vec::new(), [0; 256]);
    while let Ok(length @ 1..) = reader.read(&mut piece) {
        out.extend_from_slice(&piece[..length]);
    }
    out
}

#[tokio::test]
async fn an_event_passes_a_compressor_though_none_follows() -> Result<()> {
    let upstream = Upstream::start().await?;
    let filters = [("brotli", "Brotli"), ("zstd", "Zstd"), ("gzip", "Gzip")];
    let filters = filters.map(|(library, message)| compressor(library, message)).concat();
    let listener = HttpListener::new("http", ROUTE).filters(&filters).yaml();
    let yaml = fill(&bootstrap(&[listener], &[cluster("up", "up", "")], ""), [("up", port(upstream.addr()))]);
    let proxy = Proxy::start(&Binary::subject()?, &yaml).await?;
    let head =
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n1a\r\n";
    for encoding in ["gzip", "br", "zstd"] {
        upstream.script([Reply::steps([Step::Send([head, EVENT, b"\r\n"].concat()), Step::Stall])]);
        let mut client = Client::connect(proxy.listener("http")?).await?;
        let request = format!("GET / HTTP/1.1\r\nhost: t\r\naccept-encoding: {encoding}\r\n\r\n");
        client.send(request.as_bytes()).await?;
        let mut response = Vec::new();
        loop {
            let length = head_length(&response).unwrap_or(response.len());
            if readable(encoding, &data_of(&response[length..])) == EVENT {
                break;
            }
            let more = client.at_least(1, SOON).await;
            response.extend(more.with_context(|| format!("{encoding}: the event is held back"))?);
        }
        let told = format!("content-encoding: {encoding}\r\n");
        ensure!(String::from_utf8_lossy(&response).contains(&told), "{encoding}: it is not compressed");
    }
    Ok(())
}
