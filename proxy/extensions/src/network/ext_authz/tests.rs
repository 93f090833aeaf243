use std::collections::VecDeque;
use std::future::poll_fn;
use std::task::Waker;

use http::StatusCode;
use prost::Message;
use proxy_core::callout::{Call, CallFailure, Caller, Talk};
use proxy_core::runtime::Runtime;
use xds_api::envoy::service::auth::v3::CheckResponse;
use xds_api::google::rpc;

use super::*;
use crate::testing::{FakeEngine, block_on, env, grpc_answer, grpc_service, stream_info};

fn answer(code: i32) -> Called {
    let status = Some(rpc::Status { code, ..Default::default() });
    grpc_answer(&CheckResponse { status, ..Default::default() })
}

struct Bed {
    config: NetworkFilterConfig,
    stats: Cells<ExtAuthzStats>,
    info: StreamInfo,
}

fn bed(change: impl FnOnce(&mut proto::ExtAuthz)) -> Bed {
    let grpc_service = Some(grpc_service("authz"));
    let mut proto = proto::ExtAuthz {
        stat_prefix: "p".into(),
        transport_api_version: 2,
        grpc_service,
        ..Default::default()
    };
    change(&mut proto);
    let env = env();
    let config = ExtAuthz.build(&proto.encode_to_vec(), &mut BuildCx::new(&env)).unwrap();
    Bed { config, stats: env.stats.scope("ext_authz.p").cells(), info: stream_info() }
}

impl Bed {
    fn filter(&self, engine: Rc<dyn Engine>) -> Box<dyn NetworkFilter> {
        let NetworkFilterConfig::Policy(create) = &self.config else { panic!("not a policy") };
        create(&engine)
    }

    /// What becomes of a connection whose service answers this.
    fn outcome(&mut self, answer: Called) -> DataStep {
        let engine = FakeEngine { answers: VecDeque::from([answer]).into(), ..Default::default() };
        let mut filter = self.filter(Rc::new(engine));
        block_on(poll_fn(|cx| filter.poll_data(cx, b"a", false, &mut self.info)))
    }
}

#[test]
fn the_service_decides() {
    let closed = || DataStep::Close(CLOSED.into());
    let mut strict = bed(|_| {});
    assert_eq!(strict.outcome(answer(0)), DataStep::Done);
    assert_eq!(strict.info.details, None);
    assert_eq!(strict.outcome(answer(7)), closed());
    assert_eq!(strict.info.details.as_deref(), Some("ext_authz_denied"));
    assert_eq!(strict.outcome(Err(CallFailure::Timeout)), closed());
    assert_eq!(strict.info.details.as_deref(), Some("ext_authz_error"));
    let stats = strict.stats.here();
    assert_eq!([stats.total.value(), stats.ok.value(), stats.cx_closed.value()], [3, 1, 2]);
    let mut open = bed(|proto| proto.failure_mode_allow = true);
    assert_eq!(open.outcome(Err(CallFailure::Timeout)), DataStep::Done);
    assert_eq!(open.outcome(answer(7)), closed());
}

/// An engine whose calls are never answered, and that knows how many wait.
#[derive(Default)]
struct Silent(FakeEngine, Rc<std::cell::Cell<usize>>);

struct Waiting(Rc<std::cell::Cell<usize>>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

impl Caller for Silent {
    fn call(&self, _call: Call) -> LocalBoxFuture<'static, Called> {
        self.1.set(self.1.get() + 1);
        let waiting = Waiting(self.1.clone());
        Box::pin(async move {
            let _waiting = waiting;
            std::future::pending().await
        })
    }
    fn converse(&self, _: Call, _: Talk) -> LocalBoxFuture<'static, Result<(), CallFailure>> {
        Box::pin(std::future::pending())
    }
    fn send(&self, _call: Call) {}
}

impl Engine for Silent {
    fn upstream_protocol(
        &self,
        _: &str,
        _: proxy_core::head::Protocol,
    ) -> Option<proxy_core::head::Protocol> {
        None
    }
    fn runtime(&self) -> &Runtime {
        self.0.runtime()
    }
    fn random(&self) -> u64 {
        0
    }
    fn health_check_failed(&self) -> bool {
        false
    }
    fn cluster_health(&self, _cluster: &str) -> Option<(usize, usize)> {
        None
    }
    fn response_limits(
        &self,
        _: &str,
        _: proxy_core::head::Protocol,
    ) -> Option<proxy_core::head::HeadLimits> {
        None
    }
    fn dynamic_port(&self, _: &str) -> Option<u16> {
        None
    }
    fn count_response(&self, _cluster: &str, _status: StatusCode) {}
}

#[test]
fn one_question_is_asked_and_taken_back_with_the_connection() {
    let mut bed = bed(|_| {});
    let engine = Silent::default();
    let calls = engine.1.clone();
    let mut filter = bed.filter(Rc::new(engine));
    let mut cx = Context::from_waker(Waker::noop());
    for data in [&b"a"[..], b"ab"] {
        assert!(filter.poll_data(&mut cx, data, false, &mut bed.info).is_pending());
        assert_eq!((calls.get(), bed.stats.here().active.share()), (1, 1));
    }
    drop(filter);
    assert_eq!((calls.get(), bed.stats.here().active.share()), (0, 0));
    assert_eq!(bed.stats.here().total.value(), 1);
}
