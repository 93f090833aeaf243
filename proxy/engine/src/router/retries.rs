//! What virtual hosts and routes say about sending requests again: a route's word takes the place of its virtual host's.

use std::sync::Arc;

use proxy_core::config::{BuildCx, Rejected};
use proxy_core::retry::RetryPolicy;
use xds_api::envoy::config::route::v3 as proto;

pub(super) const NEITHER: &str = "is not implemented, nor is it in Envoy";

/// When a request is sent again, as a level says, or else the levels above it.
pub(super) fn policy(
    proto: Option<&proto::RetryPolicy>,
    outer: Option<&Arc<RetryPolicy>>,
    cx: &mut BuildCx<'_>,
) -> Result<Option<Arc<RetryPolicy>>, Rejected> {
    match proto {
        None => Ok(outer.cloned()),
        Some(proto) => {
            cx.at("retry_policy", |cx| RetryPolicy::build(proto, cx)).map(|policy| Some(Arc::new(policy)))
        }
    }
}

/// Whether tries that take too long go on beside the next, as a level says, or else the `outer` one.
pub(super) fn hedges(
    proto: Option<&proto::HedgePolicy>,
    outer: bool,
    cx: &mut BuildCx<'_>,
) -> Result<bool, Rejected> {
    let Some(proto) = proto else { return Ok(outer) };
    let proto::HedgePolicy { initial_requests, additional_request_chance, hedge_on_per_try_timeout } = proto;
    cx.at("hedge_policy", |cx| {
        cx.reject_if(initial_requests.is_some(), "initial_requests", NEITHER)?;
        cx.reject_if(additional_request_chance.is_some(), "additional_request_chance", NEITHER)
    })?;
    Ok(*hedge_on_per_try_timeout)
}

/// Most bytes of a body that are kept of a request, as a level says.
#[allow(deprecated, reason = "still sent by control planes")]
pub(super) fn buffer_limit(legacy: Option<u32>, limit: Option<u64>) -> Option<u64> {
    limit.or(legacy.map(u64::from))
}

#[cfg(test)]
mod tests {
    use proxy_core::head::RequestHead;
    use xds_api::envoy::config::route::v3::route::Action as ActionProto;

    use super::*;
    use crate::router::tests::{build_table, forward, get, host, prefix, route, selected, table, with};

    fn policy(hedge_on_per_try_timeout: bool) -> Option<proto::HedgePolicy> {
        Some(proto::HedgePolicy { hedge_on_per_try_timeout, ..Default::default() })
    }

    fn hedges(
        of_host: Option<proto::HedgePolicy>,
        of_route: Option<proto::HedgePolicy>,
        request: &RequestHead,
    ) -> bool {
        let action = proto::RouteAction { hedge_policy: of_route, ..forward("c") };
        let routes = vec![route(prefix("/"), ActionProto::Route(action))];
        let host = proto::VirtualHost { hedge_policy: of_host, ..host("v", &["*"], routes) };
        let table = build_table(&table(vec![host])).unwrap();
        selected(&table, request, 0, |route| route.hedges(request, true)).unwrap()
    }

    #[test]
    fn requests_say_before_routes_and_routes_before_hosts_whether_they_are_hedged() {
        let plain = get("a", "/");
        assert!(!hedges(None, None, &plain));
        assert!(hedges(policy(true), None, &plain));
        assert!(!hedges(policy(true), policy(false), &plain));
        let asks = |value| with(get("a", "/"), &[("x-envoy-hedge-on-per-try-timeout", value)]);
        assert!(hedges(None, None, &asks("true")));
        assert!(!hedges(None, policy(true), &asks("false")));
        assert!(hedges(None, policy(true), &asks("1")));
    }
}
