//! The stream to the service: what it is told and what it says, for all workers.
//!
//! One of the workers keeps the stream up, over its own connections, from the first bucket on. While it is down, buckets count on; it is begun anew when
//! a report is due, later each time, and the report that begins it has all that was counted.

use std::future::{pending, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::Bytes;
use prost::Message;
use proxy_core::callout::grpc::{GrpcService, frame};
use proxy_core::callout::{CallFailure, Talk};
use proxy_core::config::BuildCx;
use proxy_core::extension::http_filter::{Engine, LocalBoxFuture};
use proxy_core::stream_error::UpstreamReset;
use tokio::sync::mpsc::{self, error::TryRecvError};
use xds_api::envoy::service::rate_limit_quota::v3::{RateLimitQuotaResponse, RateLimitQuotaUsageReports};

use super::ledger::{Created, Ledger};
use super::settings::Settings;
use super::table::{Asked, Table};

/// The method that is called.
const STREAM: &str = "/envoy.service.rate_limit_quota.v3.RateLimitQuotaService/StreamRateLimitQuotas";

/// How many messages may wait to be told, and how many that were said may wait to be heard; reports that find less than half of that free are left for later.
const WAITING: usize = 32;

/// How long after a failure the stream is begun anew at the earliest, and how long at most after many.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// The buckets of a domain of a service. Filters that name the same two share them.
pub(super) struct Client {
    table: Arc<Table>,
    created: mpsc::UnboundedSender<Created>,
}

impl Client {
    /// That of this service and domain: the one that there is already, or a new one.
    ///
    /// `said` is what the configuration says of the service: one that is spoken with in another way is another one.
    pub(super) fn share(service: GrpcService, said: &str, domain: &str, cx: &BuildCx<'_>) -> Arc<Self> {
        cx.env.kept.share(&format!("{said}\0{domain}"), || {
            let table = Arc::new(Table::new(cx.env.concurrency));
            let (created, news) = mpsc::unbounded_channel();
            let ledger = Ledger::new(domain.to_owned(), table.clone());
            cx.env.background.begin(move |engine| Box::pin(run(engine, service, ledger, news)));
            Self { table, created }
        })
    }

    /// Asks the bucket with this key whether a request passes, if there is one or room for it.
    pub(super) fn ask(&self, key: &[u8], settings: &Arc<Settings>, now: Instant) -> Option<Asked> {
        let mut asked = self.table.ask(key, settings.unassigned, now)?;
        if let Some(bucket) = asked.new.take() {
            // (Who listens ends when this does.)
            let _ = self.created.send(Created { bucket, settings: settings.clone() });
        }
        Some(asked)
    }
}

/// What happens next.
enum Event {
    Created(Created),
    Said(Bytes),
    Over(Result<(), CallFailure>),
    Time,
    /// Nobody has buckets any more.
    Gone,
}

/// Keeps the service told until nobody has buckets any more.
async fn run(
    engine: Rc<dyn Engine>,
    service: GrpcService,
    ledger: Ledger,
    mut news: mpsc::UnboundedReceiver<Created>,
) {
    let mut teller = Teller { engine, service, ledger, stream: None, pause: FIRST_PAUSE, not_before: None };
    loop {
        match teller.next(&mut news).await {
            Event::Created(first) => {
                let now = now();
                let mut keys = vec![first.bucket.key.clone()];
                teller.ledger.add(first, now);
                while let Ok(another) = news.try_recv() {
                    keys.push(another.bucket.key.clone());
                    teller.ledger.add(another, now);
                }
                teller.tell_of(&keys, now);
            }
            Event::Said(message) => teller.hear(&message, now()),
            Event::Over(result) => teller.over(result, now()),
            Event::Time => teller.tell_due(now()),
            Event::Gone => return,
        }
    }
}

/// The moment, by the clock that waits are measured with.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// Who tells the service.
struct Teller {
    engine: Rc<dyn Engine>,
    service: GrpcService,
    ledger: Ledger,
    stream: Option<Stream>,
    pause: Duration,
    /// When the stream may be begun anew; `None` before the first time.
    not_before: Option<Instant>,
}

/// A stream that is up, or coming up.
struct Stream {
    call: LocalBoxFuture<'static, Result<(), CallFailure>>,
    outgoing: mpsc::Sender<Bytes>,
    incoming: mpsc::Receiver<Bytes>,
    /// Something was taken: there is a connection.
    is_up: bool,
    /// What was told before there was one.
    early: Vec<RateLimitQuotaUsageReports>,
}

impl Stream {
    fn has_room(&self) -> bool {
        self.outgoing.capacity() >= WAITING / 2
    }

    fn tell(&mut self, reports: Vec<RateLimitQuotaUsageReports>) {
        if !self.is_up && !self.early.is_empty() && self.outgoing.capacity() == WAITING {
            self.is_up = true;
            self.early = Vec::new();
        }
        for report in reports {
            // (There was room for half of what may wait, and all buckets do not make as many messages.)
            let _ = self.outgoing.try_send(frame(&report));
            if !self.is_up {
                self.early.push(report);
            }
        }
    }
}

/// Whether a call that failed so was never sent.
fn was_not_sent(failure: CallFailure) -> bool {
    match failure {
        CallFailure::NoCluster | CallFailure::NoHost => true,
        CallFailure::Reset(reset) => matches!(
            reset,
            UpstreamReset::ConnectFailure
                | UpstreamReset::LocalConnectFailure
                | UpstreamReset::ConnectTimeout
                | UpstreamReset::Overflow
        ),
        CallFailure::Timeout | CallFailure::TooLarge => false,
    }
}

impl Teller {
    async fn next(&mut self, news: &mut mpsc::UnboundedReceiver<Created>) -> Event {
        // A service that says much keeps nothing else from being done.
        match news.try_recv() {
            Ok(created) => return Event::Created(created),
            Err(TryRecvError::Disconnected) => return Event::Gone,
            Err(TryRecvError::Empty) => {}
        }
        let at = self.ledger.next();
        if at.is_some_and(|at| at <= now()) {
            return Event::Time;
        }
        let mut time = pin!(async move {
            match at {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => pending().await,
            }
        });
        poll_fn(|cx| {
            if let Some(stream) = &mut self.stream {
                let over = stream.call.as_mut().poll(cx);
                // What was said before the end is heard.
                if let Poll::Ready(Some(message)) = stream.incoming.poll_recv(cx) {
                    if let Poll::Ready(result) = over {
                        stream.call = Box::pin(std::future::ready(result));
                    }
                    return Poll::Ready(Event::Said(message));
                }
                if let Poll::Ready(result) = over {
                    return Poll::Ready(Event::Over(result));
                }
            }
            if let Poll::Ready(created) = news.poll_recv(cx) {
                return Poll::Ready(created.map_or(Event::Gone, Event::Created));
            }
            time.as_mut().poll(cx).map(|()| Event::Time)
        })
        .await
    }

    /// Begins the stream, unless it is up or failed just now.
    fn begin(&mut self, now: Instant) {
        if self.stream.is_some() || self.not_before.is_some_and(|at| now < at) {
            return;
        }
        let (outgoing, told) = mpsc::channel(WAITING);
        let (said, incoming) = mpsc::channel(WAITING);
        let talk = Talk { outgoing: told, incoming: said };
        let call = self.engine.converse(self.service.talk(STREAM), talk);
        self.stream = Some(Stream { call, outgoing, incoming, is_up: false, early: Vec::new() });
    }

    /// Tells of new buckets; of the first of all it begins the stream.
    fn tell_of(&mut self, keys: &[Arc<[u8]>], now: Instant) {
        if self.not_before.is_none() {
            self.begin(now);
        }
        if let Some(stream) = self.stream.as_mut().filter(|stream| stream.has_room()) {
            stream.tell(self.ledger.report(keys, now));
        }
    }

    /// Does what time demands.
    fn tell_due(&mut self, now: Instant) {
        self.ledger.expire(now);
        if !self.ledger.has_report(now) {
            return;
        }
        self.begin(now);
        let stream = self.stream.as_mut().filter(|stream| stream.has_room());
        let reports = self.ledger.report_due(stream.is_some(), now);
        if let Some(stream) = stream {
            stream.tell(reports);
        }
    }

    fn hear(&mut self, message: &[u8], now: Instant) {
        let Ok(RateLimitQuotaResponse { bucket_action }) = RateLimitQuotaResponse::decode(message) else {
            self.over(Err(CallFailure::TooLarge), now);
            return;
        };
        self.pause = FIRST_PAUSE;
        for action in &bucket_action {
            if let Err(reason) = self.ledger.apply(action, now) {
                tracing::warn!("the quota service said of a bucket what is not done: {reason}");
            }
        }
        self.ledger.expire(now);
    }

    fn over(&mut self, result: Result<(), CallFailure>, now: Instant) {
        tracing::debug!(?result, "the stream to the quota service is over");
        let stream = self.stream.take();
        if let Some(stream) = stream.filter(|_| result.is_err_and(was_not_sent)) {
            stream.early.into_iter().for_each(|report| self.ledger.take_back(&report));
        }
        self.not_before = now.checked_add(self.pause);
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use proxy_core::callout::grpc::take_message;
    use xds_api::envoy::service::rate_limit_quota::v3::rate_limit_quota_response::BucketAction;
    use xds_api::envoy::service::rate_limit_quota::v3::rate_limit_quota_response::bucket_action::{
        AbandonAction, BucketAction as Action,
    };

    use super::super::id::{id_of, key_of};
    use super::super::tests::{id, settings};
    use super::*;
    use crate::testing::{FakeEngine, block_on_paused, env, grpc_service};

    const SECOND: Duration = Duration::from_secs(1);

    /// A client whose task runs while `script` does.
    fn run_with<F: Future<Output = ()>>(script: impl FnOnce(Rc<FakeEngine>, Client) -> F) {
        let engine = Rc::new(FakeEngine::default());
        let env = env();
        let service = GrpcService::build(&grpc_service("quotas"), None, &mut BuildCx::new(&env)).unwrap();
        let table = Arc::new(Table::new(1));
        let (created, news) = mpsc::unbounded_channel();
        let ledger = Ledger::new("d".to_owned(), table.clone());
        let client = Client { table, created };
        block_on_paused(async {
            let keeping = run(engine.clone(), service, ledger, news);
            tokio::join!(keeping, script(engine, client));
        });
    }

    fn request(client: &Client, name: &str) -> bool {
        client.ask(&key_of(&id(name)), &settings(|_| {}), Instant::now()).unwrap().is_admitted
    }

    /// What was told on the last stream since it was asked last: names and how many passed.
    fn told(engine: &FakeEngine) -> Vec<Vec<(String, u64)>> {
        let mut talks = engine.talks.borrow_mut();
        let outgoing = &mut talks.last_mut().unwrap().1.outgoing;
        let mut told = Vec::new();
        while let Ok(frame) = outgoing.try_recv() {
            let message = take_message(&mut frame.into()).unwrap().unwrap();
            let report = RateLimitQuotaUsageReports::decode(message).unwrap();
            let usages = report.bucket_quota_usages.into_iter();
            told.push(
                usages
                    .map(|usage| {
                        (usage.bucket_id.unwrap().bucket["name"].clone(), usage.num_requests_allowed)
                    })
                    .collect(),
            );
        }
        told
    }

    #[test]
    fn nobody_is_told_anything_before_there_is_a_bucket() {
        run_with(|engine, client| async move {
            tokio::time::sleep(100 * SECOND).await;
            assert!(engine.talks.borrow().is_empty());
            drop(client);
        });
    }

    #[test]
    fn the_service_is_told_at_once_and_at_the_interval() {
        run_with(|engine, client| async move {
            assert!(request(&client, "a"));
            tokio::time::sleep(SECOND).await;
            assert_eq!(told(&engine), [[("a".to_owned(), 1)]]);
            assert!(request(&client, "a") && request(&client, "a"));
            tokio::time::sleep(3 * SECOND).await;
            assert!(told(&engine).is_empty());
            tokio::time::sleep(2 * SECOND).await;
            assert_eq!(told(&engine), [[("a".to_owned(), 2)]]);
            assert_eq!(engine.talks.borrow().len(), 1);
        });
    }

    #[test]
    fn a_stream_that_cannot_be_is_begun_later_each_time_and_nothing_is_lost() {
        run_with(|engine, client| async move {
            engine.silent.set(true);
            let mut at = Vec::new();
            for second in 0..110 {
                request(&client, "a");
                let before = engine.calls.borrow().len();
                // (Reports are due at whole seconds, and the clock is looked at between them.)
                tokio::time::sleep(if second == 0 { SECOND / 2 } else { SECOND }).await;
                if engine.calls.borrow().len() > before {
                    at.push(second);
                }
            }
            assert_eq!(at, [0, 5, 10, 15, 25, 45, 75, 105]);
            engine.silent.set(false);
            tokio::time::sleep(40 * SECOND).await;
            assert_eq!(told(&engine).concat().iter().map(|(_, count)| count).sum::<u64>(), 110);
        });
    }

    /// A service that never stops keeps no report from being made.
    #[test]
    fn a_service_that_says_much_keeps_nothing_from_being_done() {
        run_with(|engine, client| async move {
            assert!(request(&client, "a"));
            tokio::time::sleep(SECOND).await;
            let message = || Bytes::from(RateLimitQuotaResponse::default().encode_to_vec());
            let incoming = engine.talks.borrow().last().unwrap().1.incoming.clone();
            assert!(incoming.capacity() <= WAITING);
            let chattering = async {
                while incoming.send(message()).await.is_ok() {
                    tokio::task::yield_now().await;
                }
            };
            let counting = async {
                assert_eq!(told(&engine), [[("a".to_owned(), 1)]]);
                assert!(request(&client, "a") && request(&client, "b"));
                // (Time stands while there is anything to do.)
                while told(&engine).is_empty() {
                    tokio::task::yield_now().await;
                }
            };
            tokio::select! {
                () = chattering => {}
                () = counting => {}
            }
            drop(client);
        });
    }

    #[test]
    fn what_is_said_is_heard_and_what_is_no_message_ends_the_stream() {
        run_with(|engine, client| async move {
            assert!(request(&client, "a"));
            tokio::time::sleep(SECOND).await;
            let abandoned = BucketAction {
                bucket_id: Some(id_of(&key_of(&id("a")))),
                bucket_action: Some(Action::AbandonAction(AbandonAction {})),
            };
            let say = |message: Vec<u8>| {
                let talks = engine.talks.borrow();
                talks.last().unwrap().1.incoming.try_send(message.into()).unwrap();
            };
            say(RateLimitQuotaResponse { bucket_action: vec![abandoned] }.encode_to_vec());
            tokio::time::sleep(SECOND).await;
            assert_eq!(told(&engine).len(), 1);
            assert!(request(&client, "a"));
            tokio::time::sleep(SECOND).await;
            assert_eq!(told(&engine), [[("a".to_owned(), 1)]], "it was forgotten");
            say(vec![0xff]);
            tokio::time::sleep(SECOND).await;
            assert_eq!(engine.talks.borrow().len(), 1);
            assert!(engine.talks.borrow().last().unwrap().1.incoming.is_closed());
            tokio::time::sleep(5 * SECOND).await;
            assert_eq!(engine.talks.borrow().len(), 2);
        });
    }
}
