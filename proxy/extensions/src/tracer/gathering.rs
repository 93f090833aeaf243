//! Spans on their way to a collector: gathered for a while, sent together by one worker, and never waited for.
//!
//! So many spans (5) or so much time (5 s) make a report; runtime keys of the tracer say otherwise. While the collector is slow, spans are
//! gathered for longer, and dropped beyond a limit of bytes, since what a span tells of its request is as long as the client likes.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use proxy_core::callout::{Call, Called};
use proxy_core::config::BuildEnv;
use proxy_core::extension::http_filter::Engine;
use proxy_core::extension::tracer::Span;
use proxy_core::runtime::Runtime;
use tokio::sync::Notify;

/// Most bytes of spans that wait to be sent, or for the collector to take them.
const MOST_BYTES: usize = 16 << 20;
/// What a span takes beside the texts of its tags, and a tag beside its text.
const OF_SPAN: usize = 512;
const OF_TAG: usize = 64;
/// So many reports may be under way; further spans wait for one of them to end.
const MOST_REPORTS: usize = 16;
/// How long reports that are under way when nobody needs the tracer any more may still take.
const LAST_REPORTS: Duration = Duration::from_secs(10);
/// How many spans make a report where runtime does not say.
const MIN_SPANS: u64 = 5;
/// How long spans wait at most, in milliseconds, where runtime does not say.
const INTERVAL: u64 = 5000;

/// Who takes the spans of a tracer.
pub(super) trait Collector: Send + Sync + 'static {
    /// The runtime key that says how many spans make a report.
    const MIN_SPANS: &'static str;
    /// The runtime key that says how long spans wait at most, in milliseconds.
    const INTERVAL: &'static str;
    /// The call that reports `spans`.
    fn report(&self, spans: Vec<Span>, runtime: &Runtime) -> Call;
    /// What became of it.
    fn reported(&self, called: &Called);
    /// The interval passed.
    fn timer_flushed(&self);
    /// A span was one too many.
    fn dropped(&self);
}

/// The spans of a tracer that are not sent yet.
pub(super) struct Gathering<C> {
    collector: Arc<C>,
    /// Most spans that wait.
    most: usize,
    runtime: Arc<Runtime>,
    waiting: Mutex<Waiting>,
    /// Bytes of spans that are under way.
    under_way: Arc<AtomicUsize>,
    enough: Arc<Notify>,
}

/// Spans that wait to be sent.
#[derive(Default)]
struct Waiting {
    spans: Vec<Span>,
    bytes: usize,
}

/// Spans that are under way.
struct UnderWay {
    all: Arc<AtomicUsize>,
    bytes: usize,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.all.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// About how many bytes a span takes.
fn size(span: &Span) -> usize {
    let tags = span.tags.iter().map(|(name, value)| OF_TAG + name.len() + value.len());
    let state = span.context.state.as_ref().map_or(0, |state| state.len());
    OF_SPAN + span.name.len() + state + OF_TAG * span.events.len() + tags.sum::<usize>()
}

impl<C: Collector> Gathering<C> {
    /// Has a worker send `collector` what is taken, for as long as somebody keeps this; `most` spans wait at most.
    pub(super) fn begin(collector: C, most: usize, env: &BuildEnv) -> Arc<Self> {
        let gathering = Arc::new(Self {
            collector: Arc::new(collector),
            most,
            runtime: env.runtime.clone(),
            waiting: Mutex::default(),
            under_way: Arc::default(),
            enough: Arc::default(),
        });
        let (weak, enough) = (Arc::downgrade(&gathering), gathering.enough.clone());
        env.background.begin(move |engine| Box::pin(async move { run(&weak, &enough, &*engine).await }));
        gathering
    }

    /// Who takes the spans.
    pub(super) fn collector(&self) -> &C {
        &self.collector
    }

    /// Takes a span.
    pub(super) fn take(&self, span: Span) {
        let bytes = size(&span);
        let length = {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            let all = waiting.bytes + self.under_way.load(Ordering::Relaxed) + bytes;
            if waiting.spans.len() >= self.most || all > MOST_BYTES {
                self.enough.notify_one();
                return self.collector.dropped();
            }
            waiting.bytes += bytes;
            waiting.spans.push(span);
            waiting.spans.len() as u64
        };
        if length >= self.runtime.number(C::MIN_SPANS).unwrap_or(MIN_SPANS) {
            self.enough.notify_one();
        }
    }

    fn interval(&self) -> Duration {
        Duration::from_millis(self.runtime.number(C::INTERVAL).unwrap_or(INTERVAL).max(1))
    }

    /// The call that reports what waits, if anything does, and what is under way with it.
    fn report(&self) -> Option<(Call, UnderWay)> {
        let (spans, under_way) = {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            let Waiting { spans, bytes } = std::mem::take(&mut *waiting);
            self.under_way.fetch_add(bytes, Ordering::Relaxed);
            (spans, UnderWay { all: self.under_way.clone(), bytes })
        };
        (!spans.is_empty()).then(|| (self.collector.report(spans, &self.runtime), under_way))
    }
}

/// Sends what is taken, for as long as there is anybody to take it, and a little longer.
async fn run<C: Collector>(gathering: &Weak<Gathering<C>>, enough: &Notify, engine: &dyn Engine) {
    let mut calls = tokio::task::JoinSet::new();
    loop {
        let Some(interval) = gathering.upgrade().map(|gathering| gathering.interval()) else {
            let all = async { while calls.join_next().await.is_some() {} };
            let _ = tokio::time::timeout(LAST_REPORTS, all).await;
            return calls.shutdown().await;
        };
        let is_enough = tokio::select! {
            () = enough.notified() => true,
            () = tokio::time::sleep(interval) => false,
        };
        while calls.try_join_next().is_some() {}
        if calls.len() >= MOST_REPORTS {
            // (A collector that never answers, and may take as long as it likes, is not waited for when nobody needs it any more.)
            tokio::select! {
                _ = calls.join_next() => {}
                () = tokio::time::sleep(interval) => continue,
            }
        }
        let Some(gathering) = gathering.upgrade() else { continue };
        let collector = gathering.collector.clone();
        if !is_enough {
            collector.timer_flushed();
        }
        let Some((call, under_way)) = gathering.report() else { continue };
        let called = engine.call(call);
        calls.spawn_local(async move {
            collector.reported(&called.await);
            drop(under_way);
        });
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::borrow::Cow;
    use std::time::SystemTime;

    use bytes::Bytes;
    use http::HeaderMap;
    use proxy_core::extension::tracer::{SpanContext, SpanKind};

    use super::*;
    use crate::testing::{FakeEngine, block_on_paused, env};
    use crate::tracer::http_service::HttpService;

    /// Counts what was one too many, and what was reported.
    struct Counting(HttpService, AtomicUsize, AtomicUsize);

    impl Collector for Counting {
        const MIN_SPANS: &'static str = "min";
        const INTERVAL: &'static str = "interval";

        fn report(&self, spans: Vec<Span>, _runtime: &Runtime) -> Call {
            let tags = spans.iter().flat_map(|span| &span.tags);
            self.0.call(Bytes::from(tags.map(|(_, value)| value.as_str()).collect::<String>()))
        }

        fn reported(&self, _called: &Called) {
            self.2.fetch_add(1, Ordering::Relaxed);
        }

        fn timer_flushed(&self) {}

        fn dropped(&self) {
            self.1.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn gathering(most: usize) -> Arc<Gathering<Counting>> {
        let env = env();
        let service = HttpService::new(env.clusters.intern("z"), "z", "/", HeaderMap::new());
        Gathering::begin(Counting(service, AtomicUsize::new(0), AtomicUsize::new(0)), most, &env)
    }

    /// A span with a tag that is so long.
    pub(in crate::tracer) fn span(tag: usize) -> Span {
        Span {
            context: SpanContext {
                trace_id: [0, 1],
                span_id: 1,
                parent_id: 0,
                is_sampled: true,
                is_short_form: false,
                state: None,
            },
            kind: SpanKind::Server,
            is_try: false,
            name: "a".to_owned(),
            start: SystemTime::UNIX_EPOCH,
            duration: Duration::ZERO,
            tags: vec![(Cow::Borrowed("user_agent"), "a".repeat(tag))],
            events: Vec::new(),
        }
    }

    /// How many of such spans are kept.
    fn kept(gathering: &Gathering<Counting>, tag: usize) -> usize {
        let dropped = || gathering.collector.1.load(Ordering::Relaxed);
        let before = dropped();
        (0..100_000)
            .take_while(|_| {
                gathering.take(span(tag));
                dropped() == before
            })
            .count()
    }

    #[test]
    fn spans_that_nobody_takes_have_a_limit_of_bytes() {
        let gathering = gathering(usize::MAX);
        let of_long = kept(&gathering, 60_000);
        assert!((200..300).contains(&of_long), "{of_long}");
        let (call, under_way) = gathering.report().unwrap();
        assert_eq!(call.body.len(), of_long * 60_000);
        assert_eq!(kept(&gathering, 60_000), 0, "what is under way counts too");
        drop(under_way);
        assert_eq!(kept(&gathering, 60_000), of_long);
        drop(gathering.report());
        let of_short = kept(&gathering, 10);
        assert!((20_000..40_000).contains(&of_short), "{of_short}");
    }

    #[test]
    fn a_collector_that_never_answers_is_left_when_nobody_needs_it() {
        block_on_paused(tokio::task::LocalSet::new().run_until(async {
            let engine = FakeEngine::default();
            engine.silent.set(true);
            let gathering = gathering(usize::MAX);
            let under_way = gathering.under_way.clone();
            let (weak, enough) = (Arc::downgrade(&gathering), gathering.enough.clone());
            let made = || engine.calls.borrow().len();
            let mut running = std::pin::pin!(run(&weak, &enough, &engine));
            for _ in 0..2 * MOST_REPORTS {
                gathering.take(span(10));
                let interval = Duration::from_millis(INTERVAL + 1);
                assert!(tokio::time::timeout(interval, running.as_mut()).await.is_err(), "it goes on");
            }
            assert_eq!(made(), MOST_REPORTS);
            drop(gathering);
            let waited = tokio::time::timeout(Duration::from_secs(60), running).await;
            assert!(waited.is_ok(), "it ends with who needs it");
            assert_eq!(under_way.load(Ordering::Relaxed), 0, "and its calls with it");
        }));
    }

    #[test]
    fn the_last_report_is_waited_for() {
        block_on_paused(tokio::task::LocalSet::new().run_until(async {
            let engine = FakeEngine::default();
            engine.takes.set(Duration::from_secs(9));
            let gathering = gathering(usize::MAX);
            let collector = gathering.collector.clone();
            let (weak, enough) = (Arc::downgrade(&gathering), gathering.enough.clone());
            let mut running = std::pin::pin!(run(&weak, &enough, &engine));
            gathering.take(span(10));
            let interval = Duration::from_millis(INTERVAL + 1);
            assert!(tokio::time::timeout(interval, running.as_mut()).await.is_err(), "it goes on");
            assert_eq!(collector.2.load(Ordering::Relaxed), 0);
            drop(gathering);
            running.await;
            assert_eq!(collector.2.load(Ordering::Relaxed), 1);
        }));
    }

    #[test]
    fn spans_have_a_limit_of_their_number_if_that_is_said() {
        let gathering = gathering(3);
        assert_eq!(kept(&gathering, 10), 3);
        drop(gathering.report());
        assert_eq!(kept(&gathering, 10), 3);
    }
}
