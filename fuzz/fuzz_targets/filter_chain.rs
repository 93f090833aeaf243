//! HTTP filters that go on, hold, wait, drop, reply and resume as they like, in a chain of three, against a plain
//! interpreter: what each passes on is what the next one gets, and what the last one passes on is what the peer gets.
#![no_main]

use std::cell::RefCell;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use arbitrary::Arbitrary;
use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use libfuzzer_sys::fuzz_target;
use outrigger_fuzz::h1::{Answering, Request, Response, responses};
use outrigger_fuzz::rig::{Peer, Rig, Session};
use proxy_core::config::{BuildCx, Rejected};
use proxy_core::extension::http_filter::{
    DataStep, Direction, Engine, HeadersStep, HttpFilter, HttpFilterExtension, HttpFilterFactory,
    NoRouteConfig, Of, Phases, StreamCx, Verdict,
};
use proxy_core::extension::{Descriptor, Extensions, SecurityPosture, Status};
use proxy_core::head::{RequestHead, ResponseHead};
use proxy_core::local_reply::LocalReply;
use proxy_core::stream_info::StreamInfo;

const FILTERS: usize = 3;

#[derive(Arbitrary, Debug)]
struct Input {
    outcomes: Vec<u8>,
    request: Message,
    response: Message,
    /// The upstream answers before the request is complete.
    early: bool,
}

#[derive(Arbitrary, Debug)]
struct Message {
    pieces: Vec<u8>,
    trailers: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Continue,
    Hold,
    Wait,
    /// Lets so many octets pass and wants to see the rest again.
    Part(usize),
    WaitAndReply,
    Drop,
    Reply,
}

#[derive(Clone, Debug)]
enum Event {
    Head { end: bool },
    Data { bytes: Vec<u8>, end: bool },
    Trailers,
    Resumed,
}

#[derive(Clone, Debug)]
struct Record {
    filter: usize,
    direction: Direction,
    event: Event,
    outcome: Outcome,
}

/// What the filters of one input share.
#[derive(Default)]
struct Script {
    outcomes: Vec<u8>,
    log: Vec<Record>,
    completed: [usize; FILTERS],
    /// Whoever holds something lets go.
    release: bool,
    waiting: Vec<Waker>,
}

thread_local! {
    static SCRIPT: RefCell<Script> = RefCell::default();
    static RIG: Rig = Rig::new(
        "http_protocol_options: {enable_trailers: true}",
        &(0..FILTERS)
            .map(|number| format!(
                "- {{name: f{number}, typed_config: {{\"@type\": type.googleapis.com/google.protobuf.StringValue, value: \"{number}\"}}}}\n          "
            ))
            .collect::<String>(),
        "typed_extension_protocol_options: {envoy.extensions.upstreams.http.v3.HttpProtocolOptions: {\"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, explicit_http_config: {http_protocol_options: {enable_trailers: true}}}}",
        Extensions { http_filters: TABLE, ..Extensions::default() },
    );
}

const TABLE: &[&dyn HttpFilterFactory] = &[&Of::<Scripted>::new()];

struct Scripted(usize);

impl HttpFilterExtension for Scripted {
    const DESCRIPTOR: Descriptor = Descriptor {
        name: "fuzz.scripted",
        message: "google.protobuf.StringValue",
        status: Status::Stable,
        posture: SecurityPosture::RobustToUntrustedDownstreamAndUpstream,
    };
    const PHASES: Phases = Phases { request_body: true, response_headers: true, response_body: true };
    type Proto = String;
    type Config = usize;
    type RouteProto = NoRouteConfig;
    type RouteConfig = ();

    fn build(proto: String, cx: &mut BuildCx<'_>) -> Result<usize, Rejected> {
        proto.parse().map_err(|_| cx.reject("not a number"))
    }

    fn build_route((): NoRouteConfig, _: &mut BuildCx<'_>) -> Result<(), Rejected> {
        Ok(())
    }

    fn create(config: &Arc<usize>) -> Box<dyn HttpFilter> {
        Box::new(Self(**config))
    }
}

impl Scripted {
    fn note(&self, direction: Direction, event: Event) -> Outcome {
        SCRIPT.with_borrow_mut(|script| {
            let is_data = matches!(event, Event::Data { .. });
            let length = if let Event::Data { bytes, .. } = &event { bytes.len() } else { 0 };
            let outcome = match script.outcomes.pop().unwrap_or(0) % 16 {
                8..=10 => Outcome::Hold,
                11 if length > 1 => Outcome::Part(length / 2),
                11..=12 => Outcome::Wait,
                13 if is_data => Outcome::Drop,
                14 => Outcome::WaitAndReply,
                15 => Outcome::Reply,
                _ => Outcome::Continue,
            };
            script.log.push(Record { filter: self.0, direction, event, outcome });
            outcome
        })
    }

    fn headers<'a>(&self, direction: Direction, event: Event) -> HeadersStep<'a> {
        match self.note(direction, event) {
            Outcome::Continue | Outcome::Drop => HeadersStep::Continue,
            Outcome::Hold => HeadersStep::Hold,
            Outcome::Wait | Outcome::Part(_) => HeadersStep::Wait(Box::pin(wait(Verdict::Continue))),
            Outcome::WaitAndReply => HeadersStep::Wait(Box::pin(wait(Verdict::Reply(denied())))),
            Outcome::Reply => HeadersStep::Reply(denied()),
        }
    }

    fn data<'a>(&self, direction: Direction, data: &mut Bytes, end: bool) -> DataStep<'a> {
        match self.note(direction, Event::Data { bytes: data.to_vec(), end }) {
            Outcome::Continue => DataStep::Continue,
            Outcome::Hold => DataStep::Hold,
            Outcome::Drop => DataStep::Drop,
            Outcome::Wait => DataStep::Wait(Box::pin(wait(Verdict::Continue))),
            Outcome::Part(length) => DataStep::Part(data.split_off(length)),
            Outcome::WaitAndReply => DataStep::Wait(Box::pin(wait(Verdict::Reply(denied())))),
            Outcome::Reply => DataStep::Reply(denied()),
        }
    }
}

async fn wait(verdict: Verdict) -> Verdict {
    tokio::task::yield_now().await;
    verdict
}

fn denied() -> Box<LocalReply> {
    Box::new(LocalReply::new(StatusCode::FORBIDDEN, Bytes::from_static(b"denied"), "denied_by_target"))
}

impl HttpFilter for Scripted {
    fn on_request_headers<'a>(&'a mut self, _: &'a mut StreamCx<'_>, end: bool) -> HeadersStep<'a> {
        self.headers(Direction::Request, Event::Head { end })
    }

    fn on_request_data<'a>(
        &'a mut self,
        _: &'a mut StreamCx<'_>,
        data: &'a mut Bytes,
        end: bool,
    ) -> DataStep<'a> {
        self.data(Direction::Request, data, end)
    }

    fn on_request_trailers<'a>(
        &'a mut self,
        _: &'a mut StreamCx<'_>,
        _: &'a mut HeaderMap,
    ) -> HeadersStep<'a> {
        self.headers(Direction::Request, Event::Trailers)
    }

    fn on_response_headers<'a>(&'a mut self, _: &'a mut StreamCx<'_>, end: bool) -> HeadersStep<'a> {
        self.headers(Direction::Response, Event::Head { end })
    }

    fn on_response_data<'a>(
        &'a mut self,
        _: &'a mut StreamCx<'_>,
        data: &'a mut Bytes,
        end: bool,
    ) -> DataStep<'a> {
        self.data(Direction::Response, data, end)
    }

    fn on_response_trailers<'a>(
        &'a mut self,
        _: &'a mut StreamCx<'_>,
        _: &'a mut HeaderMap,
    ) -> HeadersStep<'a> {
        self.headers(Direction::Response, Event::Trailers)
    }

    fn poll_resume(&mut self, direction: Direction, task: &mut Context<'_>) -> Poll<Verdict> {
        SCRIPT.with_borrow_mut(|script| {
            if !script.release {
                script.waiting.push(task.waker().clone());
                return Poll::Pending;
            }
            let outcome = Outcome::Continue;
            script.log.push(Record { filter: self.0, direction, event: Event::Resumed, outcome });
            Poll::Ready(Verdict::Continue)
        })
    }

    fn on_complete(&mut self, _: &RequestHead, _: Option<&ResponseHead>, _: &mut StreamInfo, _: &dyn Engine) {
        SCRIPT.with_borrow_mut(|script| script.completed[self.0] += 1);
    }
}

fuzz_target!(|input: Input| {
    let mut outcomes = input.outcomes.clone();
    outcomes.truncate(64);
    SCRIPT.set(Script { outcomes, ..Script::default() });
    let (requests, answers, complete) = RIG.with(|rig| rig.run(async |session| serve(session, &input).await));
    let script = SCRIPT.take();
    assert_eq!(script.completed, [1; FILTERS], "told once that all is over");
    let replies = script.log.iter().any(|one| matches!(one.outcome, Outcome::Reply | Outcome::WaitAndReply));
    check_order(&script.log, Direction::Request);
    if replies {
        return;
    }
    check_order(&script.log, Direction::Response);
    let sent = output(&script.log, FILTERS - 1, Direction::Request);
    if !input.early {
        let [request] = &*requests else { panic!("{} requests", requests.len()) };
        assert_eq!(request.body, sent.data);
        assert!(sent.head && sent.ended);
    }
    let [answer] = &*answers else { panic!("{answers:?}") };
    let got = output(&script.log, 0, Direction::Response);
    assert_eq!((answer.status, answer.complete), (200, complete), "{answer:?}");
    assert_eq!(answer.body, got.data);
    assert!(got.head && got.ended);
});

/// What the upstream and the client got in the end.
async fn serve(session: &Session<'_>, input: &Input) -> (Vec<Request>, Vec<Response>, bool) {
    let mut client = session.connect().await;
    let mut upstream: Option<(Peer, Answering)> = None;
    let mut requests = Vec::new();
    let mut answer =
        pieces(&input.response, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").into_iter();
    let head = "POST / HTTP/1.1\r\nhost: a\r\nte: trailers\r\ntransfer-encoding: chunked\r\n\r\n";
    let mut request = pieces(&input.request, head).into_iter();
    loop {
        let mut moved = false;
        if let Some(piece) = request.next() {
            client.write(&piece);
            moved = true;
        }
        match &mut upstream {
            None => {
                session.settle(&mut [&mut client]).await;
                upstream = session.accept().map(|peer| (peer, Answering::default()));
                moved |= upstream.is_some();
            }
            Some((peer, answering)) => {
                session.settle(&mut [&mut client, peer]).await;
                requests.extend(answering.take(&peer.received).0);
                if (input.early || !requests.is_empty())
                    && let Some(piece) = answer.next()
                {
                    peer.write(&piece);
                    moved = true;
                }
            }
        }
        if !moved {
            let waiting = SCRIPT.with_borrow_mut(|script| {
                script.release = true;
                std::mem::take(&mut script.waiting)
            });
            if waiting.is_empty() {
                break;
            }
            waiting.into_iter().for_each(Waker::wake);
        }
    }
    let answers = responses(&client.received, &[Method::POST], client.closed);
    (requests, answers, true)
}

fn pieces(message: &Message, head: &str) -> Vec<Vec<u8>> {
    let mut pieces = vec![head.as_bytes().to_vec()];
    for (number, length) in message.pieces.iter().take(6).enumerate() {
        let length = usize::from(*length) % 64 + 1;
        let data = vec![b'a' + u8::try_from(number).unwrap_or(0); length];
        pieces.push([format!("{length:x}\r\n").as_bytes(), &data, b"\r\n"].concat());
    }
    let end: &[u8] = if message.trailers { b"0\r\nx: y\r\n\r\n" } else { b"0\r\n\r\n" };
    pieces.push(end.to_vec());
    pieces
}

/// A message as far as it came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Flow {
    head: bool,
    data: Vec<u8>,
    ended: bool,
}

/// What `filter` passed on, by the contract of the steps.
fn output(log: &[Record], filter: usize, direction: Direction) -> Flow {
    let (mut out, mut held) = (Flow::default(), Flow::default());
    let release = |out: &mut Flow, held: &mut Flow| {
        out.head |= std::mem::take(&mut held.head);
        out.data.append(&mut held.data);
    };
    for record in log.iter().filter(|record| record.filter == filter && record.direction == direction) {
        let goes_on = matches!(record.outcome, Outcome::Continue | Outcome::Wait);
        match (&record.event, record.outcome) {
            (_, Outcome::Reply | Outcome::WaitAndReply) => return out,
            (Event::Head { end }, Outcome::Hold) => held = Flow { head: true, data: Vec::new(), ended: *end },
            (Event::Head { end }, _) => out = Flow { head: true, data: Vec::new(), ended: *end },
            (Event::Data { bytes, end }, _) if goes_on => {
                release(&mut out, &mut held);
                out.data.extend_from_slice(bytes);
                out.ended |= *end;
            }
            (Event::Data { bytes, .. }, Outcome::Part(length)) => {
                release(&mut out, &mut held);
                out.data.extend_from_slice(&bytes[..length]);
            }
            (Event::Data { bytes, end }, Outcome::Hold) => {
                held.data.extend_from_slice(bytes);
                held.ended |= *end;
            }
            (Event::Data { end, .. }, _) => {
                if *end {
                    release(&mut out, &mut held);
                    out.ended = true;
                }
            }
            (Event::Trailers, Outcome::Hold) => held.ended = true,
            (Event::Trailers, _) => {
                release(&mut out, &mut held);
                out.ended = true;
            }
            (Event::Resumed, _) => {
                release(&mut out, &mut held);
                out.ended |= std::mem::take(&mut held.ended);
            }
        }
    }
    out
}

/// What `filter` was shown.
fn input(log: &[Record], filter: usize, direction: Direction) -> Flow {
    let mut flow = Flow::default();
    for record in log.iter().filter(|record| record.filter == filter && record.direction == direction) {
        assert!(!flow.ended || matches!(record.event, Event::Resumed), "something follows the end");
        match &record.event {
            Event::Head { end } => {
                assert!(!std::mem::replace(&mut flow.head, true), "a second head");
                flow.ended |= *end;
            }
            Event::Data { bytes, end } => {
                assert!(flow.head, "data without a head");
                if let Outcome::Part(length) = record.outcome {
                    flow.data.extend_from_slice(&bytes[..length]);
                    continue;
                }
                flow.data.extend_from_slice(bytes);
                flow.ended |= *end;
            }
            Event::Trailers => flow.ended = true,
            Event::Resumed => {}
        }
    }
    flow
}

/// At every moment a filter has seen what the one before it let go, and nothing else.
fn check_order(log: &[Record], direction: Direction) {
    for place in 1..FILTERS {
        let (before, filter) = match direction {
            Direction::Request => (place - 1, place),
            Direction::Response => (FILTERS - place, FILTERS - 1 - place),
        };
        for now in 1..=log.len() {
            let (passed, seen) =
                (output(&log[..now], before, direction), input(&log[..now], filter, direction));
            assert!(passed.data.starts_with(&seen.data), "{before} passed {passed:?}, {filter} saw {seen:?}");
            assert!(passed.head || !seen.head, "a head that is held");
            assert!(passed.ended || !seen.ended, "an end that is held");
        }
        let replies = log.iter().any(|one| matches!(one.outcome, Outcome::Reply | Outcome::WaitAndReply));
        let (passed, seen) = (output(log, before, direction), input(log, filter, direction));
        assert!(replies || passed == seen || direction == Direction::Request, "{passed:?} is not {seen:?}");
    }
}
