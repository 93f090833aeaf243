//! The cases: what a cluster detects, what its hosts do, and what is waited for.

use super::Does::{Bad, Degraded, Error, Gateway, Grpc, Half, Hang, HangUp, Refuse, Well};
use super::{Case, Does, Then};

const ALL: &str = "max_ejection_percent: 100";
const RATES: &str = "max_ejection_percent: 100, interval: 0.5s, consecutive_5xx: 1000, success_rate_minimum_hosts: 3, success_rate_request_volume: 5, failure_percentage_request_volume: 5, failure_percentage_minimum_hosts: 2";

pub(super) const CASES: &[Case] = &[
    Case::new("five in a row", ALL, &[Well, Error]),
    Case::new("three in a row", "max_ejection_percent: 100, consecutive_5xx: 3", &[Well, Error]),
    Case::new("none is too many", "max_ejection_percent: 100, consecutive_5xx: 0", &[Well, Error]),
    Case::new(
        "found but not ejected",
        "max_ejection_percent: 100, consecutive_5xx: 3, enforcing_consecutive_5xx: 0",
        &[Well, Error],
    ),
    Case::new(
        "gateway failures",
        "max_ejection_percent: 100, consecutive_gateway_failure: 3, enforcing_consecutive_gateway_failure: 100",
        &[Well, Gateway],
    ),
    Case::new("gateway failures by default", ALL, &[Well, Gateway]),
    Case::new(
        "other failures are none of a gateway",
        "max_ejection_percent: 100, consecutive_gateway_failure: 3, enforcing_consecutive_gateway_failure: 100, enforcing_consecutive_5xx: 0",
        &[Well, Error],
    ),
    Case::new("ten percent of two are none", "", &[Well, Error]),
    Case::new("but one may be", "always_eject_one_host: true", &[Well, Error]),
    Case::new("all of them", ALL, &[Error, Error]),
    Case::new("nobody listens", ALL, &[Well, Refuse]),
    Case::new(
        "nobody listens, split",
        "max_ejection_percent: 100, split_external_local_origin_errors: true",
        &[Well, Refuse],
    ),
    Case::new(
        "nobody listens, split, three in a row",
        "max_ejection_percent: 100, split_external_local_origin_errors: true, consecutive_local_origin_failure: 3",
        &[Well, Refuse],
    ),
    Case::new(
        "nobody listens, split, not enforced",
        "max_ejection_percent: 100, split_external_local_origin_errors: true, enforcing_consecutive_local_origin_failure: 0",
        &[Well, Refuse],
    ),
    Case::new("hangs up", ALL, &[Well, HangUp]),
    Case::new(
        "hangs up, split",
        "max_ejection_percent: 100, split_external_local_origin_errors: true",
        &[Well, HangUp],
    ),
    Case::new(
        "errors, split",
        "max_ejection_percent: 100, split_external_local_origin_errors: true",
        &[Well, Error],
    ),
    Case::new(
        "errors, split, gateway failures enforced",
        "max_ejection_percent: 100, split_external_local_origin_errors: true, consecutive_gateway_failure: 3, enforcing_consecutive_gateway_failure: 100",
        &[Well, Error],
    ),
    Case::new("no answer in time", "max_ejection_percent: 100, consecutive_5xx: 2", &[Well, Hang])
        .route("timeout: 0.05s")
        .rounds(5),
    Case::new(
        "no answer in time, split",
        "max_ejection_percent: 100, split_external_local_origin_errors: true, consecutive_local_origin_failure: 2",
        &[Well, Hang],
    )
    .route("timeout: 0.05s")
    .rounds(5),
    Case::new("no answer of a try in time", "max_ejection_percent: 100, consecutive_5xx: 2", &[Well, Hang])
        .route("retry_policy: {retry_on: 5xx, per_try_timeout: 0.05s}")
        .rounds(5),
    Case::new("retried", ALL, &[Well, Error]).route("retry_policy: {retry_on: 5xx}"),
    Case::new("retried connections", ALL, &[Well, Refuse]).route("retry_policy: {retry_on: connect-failure}"),
    Case::new("a status of gRPC", ALL, &[Well, Grpc]),
    Case::new("degraded", "detect_degraded_hosts: true", &[Well, Degraded]),
    Case::new("all are degraded", "detect_degraded_hosts: true", &[Degraded, Degraded]),
    Case::new("degraded, and nobody looks", ALL, &[Well, Degraded]),
    Case::new("an error is one, degraded or not", "max_ejection_percent: 100, detect_degraded_hosts: true", &[Well, Error]),
    Case::new("answers that are errors", ALL, &[Well, Bad]).errors(BAD),
    Case::new("errors that are none", ALL, &[Well, Gateway]).errors(BAD),
    Case::new("errors by status", ALL, &[Well, Gateway]).errors(
        "{and_match: {rules: [{http_response_headers_match: {headers: [{name: ':status', string_match: {exact: '503'}}]}}, {not_match: {http_response_headers_match: {headers: [{name: x-field}]}}}]}}",
    ),
    Case::new("all are errors", ALL, &[Well, Degraded]).errors("{any_match: true}"),
    Case::new("answers over gRPC are what they say", ALL, &[Well, Bad]).errors(BAD).of_grpc(),
    Case::new("errors over gRPC are some", ALL, &[Well, Gateway]).errors(BAD).of_grpc(),
    Case::new("degraded errors", "max_ejection_percent: 100, detect_degraded_hosts: true", &[Well, Degraded])
        .errors("{or_match: {rules: [{http_response_headers_match: {headers: [{name: x-envoy-degraded}]}}, {not_match: {any_match: true}}]}}"),
    Case::new("success rate", RATES, &[Well, Well, Well, Well, Error])
        .rounds(30)
        .then(Then::Until("ejections_enforced_success_rate", 1)),
    Case::new("failure percentage by default", RATES, &[Error, Error])
        .rounds(30)
        .then(Then::Until("ejections_detected_failure_percentage", 2)),
    Case::new(
        "failure percentage",
        "max_ejection_percent: 100, interval: 0.5s, consecutive_5xx: 1000, failure_percentage_request_volume: 5, failure_percentage_minimum_hosts: 2, enforcing_failure_percentage: 100",
        &[Well, Error],
    )
    .rounds(30)
    .then(Then::Until("ejections_enforced_failure_percentage", 1)),
    Case::new(
        "success rate of connections",
        "max_ejection_percent: 100, interval: 0.5s, consecutive_local_origin_failure: 1000, split_external_local_origin_errors: true, success_rate_minimum_hosts: 3, success_rate_request_volume: 5",
        &[Well, Well, Well, Well, Refuse],
    )
    .rounds(30)
    .then(Then::Until("ejections_enforced_local_origin_success_rate", 1)),
    Case::new(
        "failure percentage of connections",
        "max_ejection_percent: 100, interval: 0.5s, consecutive_local_origin_failure: 1000, split_external_local_origin_errors: true, failure_percentage_request_volume: 5, failure_percentage_minimum_hosts: 2, enforcing_failure_percentage_local_origin: 100",
        &[Well, Refuse],
    )
    .rounds(30)
    .then(Then::Until("ejections_enforced_local_origin_failure_percentage", 1)),
    Case::new(
        "back after a while",
        "max_ejection_percent: 100, interval: 0.1s, base_ejection_time: 1.5s",
        &[Well, Error],
    )
    .rounds(6)
    .then(Then::Back(1)),
    Case::new(
        "few deviations",
        "max_ejection_percent: 100, interval: 0.5s, consecutive_5xx: 1000, success_rate_minimum_hosts: 5, success_rate_request_volume: 6, success_rate_stdev_factor: 400",
        FIVE,
    )
    .rounds(30)
    .then(Then::Until("ejections_enforced_success_rate", 2)),
    Case::new(
        "one deviation",
        "max_ejection_percent: 100, interval: 0.5s, consecutive_5xx: 1000, success_rate_minimum_hosts: 5, success_rate_request_volume: 6, success_rate_stdev_factor: 1000",
        FIVE,
    )
    .rounds(30)
    .then(Then::Until("ejections_enforced_success_rate", 1)),
    Case::new(
        "many deviations",
        "max_ejection_percent: 100, interval: 0.5s, consecutive_5xx: 1000, success_rate_minimum_hosts: 5, success_rate_request_volume: 6, success_rate_stdev_factor: 3000, failure_percentage_request_volume: 6",
        FIVE,
    )
    .rounds(30)
    .then(Then::Until("ejections_detected_failure_percentage", 1)),
    Case::new(
        "a high share of failures",
        "max_ejection_percent: 100, interval: 0.5s, consecutive_5xx: 1000, failure_percentage_request_volume: 6, failure_percentage_minimum_hosts: 2, enforcing_failure_percentage: 100, failure_percentage_threshold: 80",
        &[Well, Half, Error],
    )
    .rounds(30)
    .then(Then::Until("ejections_enforced_failure_percentage", 1)),
    Case::new(
        "a low share of failures",
        "max_ejection_percent: 100, interval: 0.5s, consecutive_5xx: 1000, failure_percentage_request_volume: 6, failure_percentage_minimum_hosts: 2, enforcing_failure_percentage: 100, failure_percentage_threshold: 30",
        &[Well, Half, Error],
    )
    .rounds(30)
    .then(Then::Until("ejections_enforced_failure_percentage", 2)),
    Case::new(
        "success rate, not enforced",
        "max_ejection_percent: 100, interval: 0.5s, consecutive_5xx: 1000, success_rate_minimum_hosts: 3, success_rate_request_volume: 5, enforcing_success_rate: 0",
        &[Well, Well, Well, Well, Error],
    )
    .rounds(30)
    .then(Then::Until("ejections_detected_success_rate", 1)),
    Case::new(
        "success rate of connections, not enforced",
        "max_ejection_percent: 100, interval: 0.5s, consecutive_local_origin_failure: 1000, split_external_local_origin_errors: true, success_rate_minimum_hosts: 3, success_rate_request_volume: 5, enforcing_local_origin_success_rate: 0",
        &[Well, Well, Well, Well, Refuse],
    )
    .rounds(30)
    .then(Then::Until("ejections_detected_local_origin_success_rate", 1)),
    Case::new(
        "longer each time",
        "max_ejection_percent: 100, consecutive_5xx: 1, interval: 0.05s, base_ejection_time: 0.7s",
        &[Error],
    )
    .rounds(1)
    .then(Then::Again(3)),
    Case::new(
        "longer up to a limit",
        "max_ejection_percent: 100, consecutive_5xx: 1, interval: 0.05s, base_ejection_time: 0.7s, max_ejection_time: 1.4s",
        &[Error],
    )
    .rounds(1)
    .then(Then::Again(4)),
    Case::new(
        "always as long",
        "max_ejection_percent: 100, consecutive_5xx: 1, interval: 0.05s, base_ejection_time: 0.7s, max_ejection_time: 0.7s",
        &[Error],
    )
    .rounds(1)
    .then(Then::Again(3)),
    Case::new("checks let it back in", ALL, &[Well, Error]).checked().rounds(6).then(Then::Back(1)),
    Case::new(
        "checks do not let it back in",
        "max_ejection_percent: 100, successful_active_health_check_uneject_host: false",
        &[Well, Error],
    )
    .checked()
    .rounds(6)
    .then(Then::Checked),
    Case::new("the runtime: consecutive_5xx", ALL, &[Well, Error]).runtime(&[("consecutive_5xx", "2")]),
    Case::new("the runtime: consecutive_gateway_failure", ALL, &[Well, Gateway]).runtime(&[
        ("consecutive_gateway_failure", "2"),
        ("enforcing_consecutive_gateway_failure", "100"),
    ]),
    Case::new(
        "the runtime: consecutive_local_origin_failure",
        "max_ejection_percent: 100, split_external_local_origin_errors: true",
        &[Well, Refuse],
    )
    .runtime(&[("consecutive_local_origin_failure", "2")]),
    Case::new(
        "the runtime: enforcing_consecutive_local_origin_failure",
        "max_ejection_percent: 100, split_external_local_origin_errors: true",
        &[Well, Refuse],
    )
    .runtime(&[("enforcing_consecutive_local_origin_failure", "0")]),
    Case::new("the runtime: enforcing_consecutive_5xx", ALL, &[Well, Error])
        .runtime(&[("enforcing_consecutive_5xx", "0")]),
    Case::new("the runtime: max_ejection_percent", ALL, &[Well, Error])
        .runtime(&[("max_ejection_percent", "10")]),
    Case::new("the runtime: base_ejection_time_ms", "max_ejection_percent: 100, interval: 0.1s", &[Well, Error])
        .rounds(6)
        .runtime(&[("base_ejection_time_ms", "1500")])
        .then(Then::Back(1)),
    Case::new(
        "the runtime: max_ejection_time_ms",
        "max_ejection_percent: 100, consecutive_5xx: 1, interval: 0.05s, base_ejection_time: 0.7s",
        &[Error],
    )
    .rounds(1)
    .runtime(&[("max_ejection_time_ms", "700")])
    .then(Then::Again(3)),
    Case::new(
        "the runtime: success rates",
        "max_ejection_percent: 100, interval: 0.5s, consecutive_5xx: 1000, success_rate_minimum_hosts: 50, success_rate_request_volume: 5000, success_rate_stdev_factor: 9000, enforcing_success_rate: 0",
        FIVE,
    )
    .rounds(30)
    .runtime(&[
        ("success_rate_minimum_hosts", "5"),
        ("success_rate_request_volume", "6"),
        ("success_rate_stdev_factor", "1000"),
        ("enforcing_success_rate", "100"),
    ])
    .then(Then::Until("ejections_enforced_success_rate", 1)),
    Case::new(
        "the runtime: success rates of connections",
        "max_ejection_percent: 100, interval: 0.5s, consecutive_local_origin_failure: 1000, split_external_local_origin_errors: true, success_rate_minimum_hosts: 3, success_rate_request_volume: 5",
        &[Well, Well, Well, Well, Refuse],
    )
    .rounds(30)
    .runtime(&[("enforcing_local_origin_success_rate", "0")])
    .then(Then::Until("ejections_detected_local_origin_success_rate", 1)),
    Case::new(
        "the runtime: shares of failures",
        "max_ejection_percent: 100, interval: 0.5s, consecutive_5xx: 1000, failure_percentage_minimum_hosts: 50, failure_percentage_request_volume: 5000, failure_percentage_threshold: 100",
        &[Well, Half],
    )
    .rounds(30)
    .runtime(&[
        ("failure_percentage_minimum_hosts", "2"),
        ("failure_percentage_request_volume", "6"),
        ("failure_percentage_threshold", "30"),
        ("enforcing_failure_percentage", "100"),
    ])
    .then(Then::Until("ejections_enforced_failure_percentage", 1)),
    Case::new(
        "the runtime: shares of failures of connections",
        "max_ejection_percent: 100, interval: 0.5s, consecutive_local_origin_failure: 1000, split_external_local_origin_errors: true, failure_percentage_request_volume: 5, failure_percentage_minimum_hosts: 2",
        &[Well, Refuse],
    )
    .rounds(30)
    .runtime(&[("enforcing_failure_percentage_local_origin", "100")])
    .then(Then::Until("ejections_enforced_local_origin_failure_percentage", 1)),
];

const FIVE: &[Does] = &[Well, Well, Well, Half, Error];

const BAD: &str = "{http_response_headers_match: {headers: [{name: x-field, string_match: {exact: bad}}]}}";
