//! What the HTTP/1 codec costs: CPU time and allocations for one small exchange, parsed and encoded on both sides.
//!
//! Run: `cargo bench -p proxy-engine --bench codec`. Budget: 3 us for the whole exchange.

use bytes::{Bytes, BytesMut};
use http::Method;
use proxy_core::head::{BodyEvent, Protocol};
use proxy_engine::codec::h1::{
    BodyDecoder, BodyFraming, ConnectionOption, HeadLimits, KeyFormat, RequestMessage, RequestOptions,
    RequestParser, ResponseContext, ResponseMessage, ResponseOptions, ResponseParser, TargetForm,
    TrailerOptions,
};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::hint::black_box;

/// A request as browsers and clients behind a sidecar send it.
const REQUEST: &[u8] =
    b"GET /productpage?u=normal HTTP/1.1\r\nHost: bookinfo.example.com\r\nUser-Agent: curl/8.5.0\r\n\
    Accept: */*\r\nx-request-id: 3f3b9f0a-5d1c-4a52-9a2f-0f7f8a1c2b3d\r\nx-forwarded-proto: http\r\n\
    traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n\r\n";
const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: 13\r\n\
    Date: Sun, 22 Nov 2026 12:00:00 GMT\r\nServer: istio-envoy\r\nx-envoy-upstream-service-time: 3\r\n\r\nHello, world!";

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

/// Counts allocations of the thread that measures.
struct Counting;

#[expect(unsafe_code, reason = "a global allocator cannot be written without")]
// SAFETY: every call is handed to the system allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The two buffers of a connection pair, kept as a worker keeps them.
struct Pair {
    requests: RequestParser,
    responses: ResponseParser,
    input: BytesMut,
    output: BytesMut,
}

impl Pair {
    fn new() -> Self {
        Self {
            requests: RequestParser::new(HeadLimits::REQUEST, RequestOptions::default()),
            responses: ResponseParser::new(HeadLimits::RESPONSE, ResponseOptions::default()),
            input: BytesMut::with_capacity(16 * 1024),
            output: BytesMut::with_capacity(16 * 1024),
        }
    }

    fn parse_request(&mut self) -> Option<()> {
        self.input.extend_from_slice(REQUEST);
        let parsed = self.requests.parse(&mut self.input).ok()??;
        black_box(&parsed);
        Some(())
    }

    fn parse_response(&mut self) -> Option<()> {
        self.input.extend_from_slice(RESPONSE);
        let parsed = self.responses.parse(&mut self.input, ResponseContext::default()).ok()??;
        self.input.clear();
        black_box(&parsed);
        Some(())
    }

    /// Request in, request out, response in, response out.
    fn exchange(&mut self) -> Option<()> {
        self.input.extend_from_slice(REQUEST);
        let request = self.requests.parse(&mut self.input).ok()??;
        let message = RequestMessage {
            head: &request.head,
            framing: request.framing,
            keys: KeyFormat::Lower,
            target: TargetForm::Origin,
        };
        message.encode(&mut self.output).ok()?;
        black_box(&self.output[..]);
        self.output.clear();

        self.input.extend_from_slice(RESPONSE);
        let response = self.responses.parse(&mut self.input, ResponseContext::of(&request.head)).ok()??;
        let message = ResponseMessage {
            head: &response.head,
            framing: response.framing,
            method: &Method::GET,
            protocol: Protocol::Http11,
            connection: ConnectionOption::Default,
            upgrade: None,
            keys: KeyFormat::Lower,
        };
        let mut encoder = message.encode(&mut self.output).ok()?;
        let mut decoder = BodyDecoder::new(response.framing, TrailerOptions::default());
        while let Some(BodyEvent::Data(data)) = decoder.decode(&mut self.input).ok()? {
            encoder.data(&data, &mut self.output).ok()?;
        }
        encoder.finish(None, &mut self.output).ok()?;
        black_box(&self.output[..]);
        self.output.clear();
        Some(())
    }
}

/// CPU time of this thread so far, in nanoseconds: other load on the machine counts less than with a clock.
fn cpu_time() -> Outcome<u64> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    let first = text.split_ascii_whitespace().next().ok_or("no scheduler statistics")?;
    Ok(first.parse()?)
}

/// Runs one thing often: the best of five rounds, and the allocations of one call.
fn measure(out: &mut impl std::io::Write, name: &str, mut call: impl FnMut() -> Option<()>) -> Outcome<()> {
    // `cargo bench` says so; as a test target one short round shows that it still runs.
    let rounds: u32 = if std::env::args().any(|argument| argument == "--bench") { 200_000 } else { 100 };
    let mut best = u64::MAX;
    let mut allocations = 0;
    for _ in 0..5 {
        let before = ALLOCATIONS.with(Cell::get);
        let start = cpu_time()?;
        for _ in 0..rounds {
            call().ok_or_else(|| format!("{name}: the sample was refused"))?;
        }
        best = best.min((cpu_time()? - start) / u64::from(rounds));
        allocations = (ALLOCATIONS.with(Cell::get) - before) / u64::from(rounds);
    }
    writeln!(out, "{name:<28} {best:>6} ns {allocations:>3} allocations")?;
    Ok(())
}

fn main() -> Outcome<()> {
    let mut out = std::io::stdout().lock();
    let mut pair = Pair::new();
    measure(&mut out, "parse request", || pair.parse_request())?;
    measure(&mut out, "parse response", || pair.parse_response())?;
    measure(&mut out, "exchange (parse and encode)", || pair.exchange())?;
    let body = Bytes::from(vec![b'x'; 64 * 1024]);
    let chunk = [&b"10000\r\n"[..], &body, b"\r\n0\r\n\r\n"].concat();
    let mut input = BytesMut::with_capacity(chunk.len());
    measure(&mut out, "decode one chunk of 64 KiB", || {
        input.reserve(chunk.len());
        input.extend_from_slice(&chunk);
        let mut decoder = BodyDecoder::new(BodyFraming::Chunked, TrailerOptions::default());
        while let Some(BodyEvent::Data(data)) = decoder.decode(&mut input).ok()? {
            black_box(&data);
        }
        Some(())
    })?;
    Ok(())
}
