use xds_api::envoy::config::route::v3::route_action;

use super::*;
use crate::router::tests::{build, forward, get, with};

const GRPC: (&str, &str) = ("content-type", "application/grpc");

fn seconds(seconds: i64) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds, nanos: 0 })
}

fn of(proto: &proto::RouteAction) -> RouteTimeouts {
    build(|cx| RouteTimeouts::build(proto, cx)).unwrap()
}

fn streaming(max: [Option<prost_types::Duration>; 3]) -> proto::RouteAction {
    let [max_stream_duration, grpc_timeout_header_max, grpc_timeout_header_offset] = max;
    proto::RouteAction {
        timeout: seconds(1),
        max_stream_duration: Some(route_action::MaxStreamDuration {
            max_stream_duration,
            grpc_timeout_header_max,
            grpc_timeout_header_offset,
        }),
        ..forward("c")
    }
}

#[allow(deprecated, reason = "still sent by control planes")]
fn legacy(max: i64, offset: Option<prost_types::Duration>) -> proto::RouteAction {
    proto::RouteAction {
        timeout: seconds(9),
        max_grpc_timeout: seconds(max),
        grpc_timeout_offset: offset,
        ..forward("c")
    }
}

fn timeout(value: Option<prost_types::Duration>) -> proto::RouteAction {
    proto::RouteAction { timeout: value, ..forward("c") }
}

/// What the upstream is told: the expected time in milliseconds, and `grpc-timeout`.
fn told(route: &proto::RouteAction, headers: &[(&'static str, &str)]) -> (Option<String>, Option<String>) {
    let mut request = with(get("h", "/"), headers);
    let timeouts = of(route).for_request(&request, ExpectedTimeout::Overwritten, None);
    timeouts.write_headers(&mut request, Duration::from_micros(300), EnvoyHeaders::Added);
    assert!(!request.headers.contains_key(&*X_ENVOY_UPSTREAM_RQ_TIMEOUT_MS));
    assert!(!request.headers.contains_key(&*X_ENVOY_UPSTREAM_RQ_PER_TRY_TIMEOUT_MS));
    let value = |name| request.headers.get(name).map(|value| value.to_str().unwrap().to_owned());
    (value(&*X_ENVOY_EXPECTED_RQ_TIMEOUT_MS), value(&GRPC_TIMEOUT))
}

/// Every row was observed on Envoy 1.40; columns: nothing asked for, `grpc-timeout: 4S` of other requests, of gRPC
/// requests, gRPC requests without it.
#[test]
fn the_upstream_is_told_what_envoy_tells_it() {
    let asks: [&[(&str, &str)]; 4] =
        [&[], &[("grpc-timeout", "4S")], &[GRPC, ("grpc-timeout", "4S")], &[GRPC]];
    let rows = [
        (timeout(None), [("15000", ""), ("15000", "4S"), ("15000", "4S"), ("15000", "")]),
        (timeout(seconds(0)), [("", ""), ("", "4S"), ("", "4S"), ("", "")]),
        (streaming([None, None, None]), [("", ""), ("", "4S"), ("", "4S"), ("", "")]),
        (streaming([seconds(3), None, None]), [("", ""), ("", "4S"), ("", "3000m"), ("", "3000m")]),
        (streaming([None, seconds(0), None]), [("", ""), ("", "4S"), ("", "4000m"), ("", "")]),
        (streaming([None, seconds(2), None]), [("", ""), ("", "4S"), ("", "2000m"), ("", "")]),
        (
            streaming([seconds(3), seconds(2), seconds(1)]),
            [("", ""), ("", "4S"), ("", "1000m"), ("", "3000m")],
        ),
        (legacy(5, None), [("9000", ""), ("9000", "4S"), ("4000", "4000m"), ("5000", "5000m")]),
        (legacy(0, seconds(1)), [("9000", ""), ("9000", "4S"), ("3000", "3000m"), ("", "")]),
    ];
    for (route, row) in rows {
        for (ask, (expected, grpc)) in asks.iter().zip(row) {
            let (told_expected, told_grpc) = told(&route, ask);
            assert_eq!(told_expected.unwrap_or_default(), expected, "{route:?} {ask:?}");
            assert_eq!(told_grpc.unwrap_or_default(), grpc, "{route:?} {ask:?}");
        }
    }
}

/// Every row was observed on Envoy 1.40.
#[test]
fn requests_may_ask_for_other_timeouts() {
    let route = timeout(seconds(1));
    let (global, per_try) = ("x-envoy-upstream-rq-timeout-ms", "x-envoy-upstream-rq-per-try-timeout-ms");
    for (headers, expected) in [
        (vec![(global, "500")], "500"),
        (vec![(global, "0")], ""),
        (vec![(global, "abc")], "1000"),
        (vec![(global, "")], "1000"),
        (vec![(per_try, "100")], "100"),
        (vec![(per_try, "1000")], "1000"),
        (vec![(per_try, "100"), (global, "0")], "100"),
        (vec![(per_try, "abc")], "1000"),
        (vec![("x-envoy-expected-rq-timeout-ms", "77")], "1000"),
    ] {
        assert_eq!(told(&route, &headers).0.unwrap_or_default(), expected, "{headers:?}");
    }
    let request = with(get("h", "/"), &[("x-envoy-expected-rq-timeout-ms", "77"), (global, "500")]);
    let respected = of(&route).for_request(&request, ExpectedTimeout::Respected, None);
    assert_eq!(respected.global, Some(Duration::from_millis(77)));
}

#[test]
fn grpc_timeouts_are_read_and_written_in_grpcs_units() {
    let route = legacy(0, seconds(1));
    for (asked, told_grpc) in [
        ("1H", "3599000m"),
        ("99999999H", "99999998H"),
        ("01S", "1000m"),
        ("0S", "0S"),
        ("1000000001n", "1000000001n"),
        ("100000000m", "100000000m"),
        ("m", "m"),
        ("1x", "1x"),
        ("1.5S", "1.5S"),
        ("-1S", "-1S"),
    ] {
        assert_eq!(told(&route, &[GRPC, ("grpc-timeout", asked)]).1.unwrap(), told_grpc, "{asked}");
    }
    // Any request that says zero is out of time at once where grpc-timeout counts.
    let request = with(get("h", "/"), &[("grpc-timeout", "0S")]);
    let timeouts =
        of(&streaming([None, seconds(0), None])).for_request(&request, ExpectedTimeout::Overwritten, None);
    assert_eq!(timeouts.max_stream, Override::After(Duration::ZERO));
}

#[test]
fn the_connection_managers_limits_hold_where_the_route_has_none() {
    let request = with(get("h", "/"), &[GRPC]);
    let mut timeouts = of(&timeout(None)).for_request(&request, ExpectedTimeout::Overwritten, None);
    assert_eq!(timeouts.idle.or(Some(Duration::from_secs(300))), Some(Duration::from_secs(300)));
    assert_eq!(timeouts.resolve_max_stream(Some(Duration::from_secs(7))), Some(Duration::from_secs(7)));
    assert_eq!(timeouts.grpc_timeout, None);
    let off = proto::RouteAction { idle_timeout: seconds(0), ..streaming([seconds(0), None, None]) };
    let mut timeouts = of(&off).for_request(&request, ExpectedTimeout::Overwritten, None);
    assert_eq!(timeouts.idle.or(Some(Duration::from_secs(300))), None);
    assert_eq!(timeouts.resolve_max_stream(Some(Duration::from_secs(7))), None);
}

#[test]
fn later_tries_have_less_time() {
    let mut request = get("h", "/");
    let timeouts = of(&timeout(seconds(1))).for_request(&request, ExpectedTimeout::Overwritten, None);
    for (elapsed, expected) in [(0, "1000"), (400, "600"), (1000, "1"), (5000, "1")] {
        timeouts.write_headers(&mut request, Duration::from_millis(elapsed), EnvoyHeaders::Added);
        assert_eq!(request.headers[&*X_ENVOY_EXPECTED_RQ_TIMEOUT_MS], expected, "{elapsed}");
    }
    let mut request = get("h", "/");
    timeouts.write_headers(&mut request, Duration::ZERO, EnvoyHeaders::Suppressed);
    assert!(!request.headers.contains_key(&*X_ENVOY_EXPECTED_RQ_TIMEOUT_MS));
}
