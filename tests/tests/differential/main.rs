//! The real Envoy and Outrigger side by side: same configuration, same bytes, every observable difference.
//!
//! `CASE=word cargo test -p integration --test differential` runs the cases whose names contain the word; `SHOW=1` prints
//! what Envoy does; `SUBJECT=envoy` compares Envoy with itself, which proves that the comparison ignores what varies (a few
//! cases are compared so in every run). What differs on purpose is declared in the cases and told in `docs/differences.md`.

mod aggregate;
mod answers;
mod balancing;
mod bandwidth_limit;
mod breakers;
mod buffer;
mod cel;
mod cel_text;
mod chain_trees;
mod clusters;
mod compressor;
mod declared;
mod dynamic;
mod dynamic_tls;
mod endpoint_stats;
mod ext_authz;
mod ext_authz_network;
mod fault;
mod flushing;
mod hashing;
mod headers;
mod health;
mod health_alpn;
mod health_changes;
mod health_discovery;
mod health_intervals;
mod health_ruled;
mod health_slow;
mod health_together;
mod hedging;
mod http1;
mod http2;
mod jwt;
mod labelling;
mod local_ratelimit;
mod log_filters;
mod logs;
mod match_delegate;
mod metadata;
mod mirror;
mod oob;
mod opentelemetry;
mod options;
mod original_dst;
mod outlier;
mod overload;
mod paths;
mod prefix;
mod quota;
mod ratelimit;
mod ratelimit_network;
mod rbac;
mod rbac_matcher;
mod redirects;
mod replies;
mod reported;
mod retried_clusters;
mod retries;
mod route_trees;
mod routing;
mod ruled;
mod sessions;
mod shedding;
mod sinks;
mod slow_start;
mod spelling;
mod state;
mod subsets;
mod tcp;
mod timeouts;
mod tracing;
mod tunnels;
mod upstream_filters;
mod validate;
mod zones;

use anyhow::Result;
use integration::differential::{Case, Setup, compare};
use integration::process::Binary;

/// Runs the cases; the failure lists every difference.
async fn differential(setup: Setup, cases: Vec<Case>) {
    let compared =
        async { compare(&setup, &cases, &Binary::envoy()?, &Binary::subject()?).await?.into_result() };
    expect_ok(compared.await);
}

fn expect_ok(result: Result<()>) {
    let message = result.err().map(|error| format!("{error:#}"));
    assert!(message.is_none(), "{}", message.unwrap_or_default());
}

#[tokio::test]
async fn http1_heads_and_bodies() {
    differential(http1::setup(), http1::cases()).await;
}

#[tokio::test]
async fn http1_misbehaving_upstreams() {
    differential(http1::setup(), http1::upstream_cases()).await;
}

#[tokio::test]
async fn routes() {
    differential(routing::setup(), routing::cases()).await;
}

#[tokio::test]
async fn routes_of_trees() {
    differential(route_trees::setup(), route_trees::cases()).await;
}

#[tokio::test]
async fn filter_chains_of_trees() {
    differential(chain_trees::setup(), chain_trees::cases()).await;
}

#[tokio::test]
async fn requests_that_traces_have_logged() {
    differential(log_filters::setup(), log_filters::cases()).await;
}

#[tokio::test]
async fn clusters_of_routes() {
    differential(clusters::setup(), clusters::cases()).await;
}

#[tokio::test]
async fn clusters_of_clusters() {
    differential(aggregate::setup(), aggregate::cases()).await;
}

#[tokio::test]
async fn hosts_that_requests_name() {
    differential(dynamic::setup(), dynamic::cases()).await;
}

#[tokio::test]
async fn hosts_that_tls_clients_name() {
    differential(dynamic_tls::setup(), dynamic_tls::cases()).await;
}

#[tokio::test]
async fn compression() {
    differential(compressor::setup(), compressor::cases()).await;
}

#[tokio::test]
async fn further_options() {
    differential(options::setup(), options::cases()).await;
}

#[tokio::test]
async fn original_destinations() {
    differential(original_dst::setup(), original_dst::cases()).await;
}

#[tokio::test]
async fn header_rules() {
    differential(headers::setup(), headers::cases()).await;
}

#[tokio::test]
async fn certificates_that_headers_tell_of() {
    differential(headers::setup(), headers::certificate_cases()).await;
}

#[tokio::test]
async fn header_prefix() {
    for (setup, cases) in prefix::groups() {
        differential(setup, cases).await;
    }
}

#[tokio::test]
async fn header_spelling() {
    differential(spelling::setup(), spelling::cases()).await;
}

#[tokio::test]
async fn path_rules() {
    differential(paths::setup(), paths::cases()).await;
}

#[tokio::test]
async fn local_replies() {
    differential(replies::setup(), replies::cases()).await;
}

#[tokio::test]
async fn time_limits() {
    differential(timeouts::setup(), timeouts::cases()).await;
}

#[tokio::test]
async fn responses_that_wait_for_the_window() {
    differential(flushing::setup(), flushing::cases()).await;
}

#[tokio::test]
async fn clusters_of_requests_sent_again() {
    differential(retried_clusters::setup(), retried_clusters::cases()).await;
}

#[tokio::test]
async fn requests_sent_again() {
    differential(retries::setup(), retries::cases()).await;
}

#[tokio::test]
async fn tries_beside_each_other() {
    differential(hedging::setup(), hedging::cases()).await;
}

#[tokio::test]
async fn redirects_followed_here() {
    differential(redirects::setup(), redirects::cases()).await;
}

#[tokio::test]
async fn requests_copied_to_other_clusters() {
    differential(mirror::setup(), mirror::cases()).await;
}

#[tokio::test]
async fn upgrades_and_connect() {
    differential(tunnels::setup(), tunnels::cases()).await;
}

#[tokio::test]
async fn ignored_upgrades() {
    differential(tunnels::setup(), tunnels::ignored_cases()).await;
}

#[tokio::test]
async fn requests_that_are_waited_for() {
    differential(buffer::setup(), buffer::cases()).await;
}

#[tokio::test]
async fn too_much_to_do() {
    expect_ok(overload::compare().await);
}

#[tokio::test]
async fn more_and_more_to_do() {
    expect_ok(overload::rise().await);
}

#[tokio::test]
async fn connections_that_are_told_to_go() {
    expect_ok(overload::going_away().await);
}

#[tokio::test]
async fn requests_that_are_given_up() {
    expect_ok(overload::given_up().await);
}

#[tokio::test]
async fn streams_that_hold_much() {
    expect_ok(overload::heavy().await);
}

#[tokio::test]
async fn requests_that_are_shed() {
    differential(shedding::setup(), shedding::cases()).await;
}

#[tokio::test]
async fn bodies_that_share_a_rate() {
    differential(bandwidth_limit::setup(), bandwidth_limit::cases()).await;
}

#[tokio::test]
async fn connections_that_a_service_counts() {
    differential(ratelimit_network::setup(), ratelimit_network::cases()).await;
}

#[tokio::test]
async fn requests_that_a_service_counts() {
    differential(ratelimit::setup(), ratelimit::cases()).await;
}

#[tokio::test]
async fn filters_behind_the_router() {
    differential(upstream_filters::setup(), upstream_filters::cases()).await;
}

#[tokio::test]
async fn network_filters() {
    differential(tcp::setup(), tcp::cases()).await;
}

#[tokio::test]
async fn access_control_of_requests() {
    differential(rbac::setup(), rbac::cases()).await;
}

#[tokio::test]
async fn access_control_of_connections() {
    differential(rbac::network_setup(), rbac::network_cases()).await;
}

#[tokio::test]
async fn access_control_by_conditions() {
    differential(cel::setup(), cel::cases()).await;
}

#[tokio::test]
async fn expressions_in_text() {
    differential(cel_text::setup(), cel_text::cases()).await;
}

#[tokio::test]
async fn access_control_behind_the_router() {
    differential(rbac::upstream_setup(), rbac::upstream_cases()).await;
}

#[tokio::test]
async fn filter_state() {
    differential(state::setup(), state::cases()).await;
}

#[tokio::test]
async fn access_control_by_matchers() {
    differential(rbac_matcher::setup(), rbac_matcher::cases()).await;
}

#[tokio::test]
async fn access_control_of_connections_by_matchers() {
    differential(rbac_matcher::network_setup(), rbac_matcher::network_cases()).await;
}

#[tokio::test]
async fn tokens_of_requests() {
    let (setup, cases) = jwt::setup_and_cases();
    differential(setup, cases).await;
}

#[tokio::test]
async fn authorization_by_a_service() {
    differential(ext_authz::setup(), ext_authz::cases()).await;
}

#[tokio::test]
async fn authorization_by_a_service_over_http() {
    differential(ext_authz::setup(), ext_authz::http_cases()).await;
}

#[tokio::test]
async fn authorization_of_connections_by_a_service() {
    differential(ext_authz_network::setup(), ext_authz_network::cases()).await;
}

#[tokio::test]
async fn injected_faults() {
    differential(fault::setup(), fault::cases()).await;
}

#[tokio::test]
async fn rates_of_requests() {
    differential(local_ratelimit::setup(), local_ratelimit::cases()).await;
    differential(local_ratelimit::formatted_setup(), local_ratelimit::formatted_cases()).await;
    differential(local_ratelimit::shared_setup(), local_ratelimit::shared_cases()).await;
}

#[tokio::test]
async fn metadata_of_requests() {
    differential(labelling::setup(), labelling::cases()).await;
}

#[tokio::test]
async fn http2_pairs() {
    differential(http2::setup(), http2::cases()).await;
}

#[tokio::test]
async fn filters_that_a_matcher_skips() {
    differential(match_delegate::setup(), match_delegate::cases()).await;
}

#[tokio::test]
async fn access_logs() {
    differential(logs::setup(), logs::cases()).await;
}

#[tokio::test]
async fn upstream_logs() {
    differential(logs::setup(), logs::upstream_cases()).await;
}

/// The rig itself: what varies from run to run is no difference.
#[tokio::test]
async fn envoy_against_itself() {
    let cases: Vec<Case> = http1::cases().into_iter().step_by(9).collect();
    let compared = async {
        let envoy = Binary::envoy()?;
        compare(&http1::setup(), &cases, &envoy, &envoy).await?.into_result()
    };
    expect_ok(compared.await);
}

/// `UPDATE_DOCS=1` writes the page instead.
#[test]
fn declared_differences_are_documented() {
    expect_ok(declared::check_page());
}

#[tokio::test]
async fn shares_of_hosts() {
    let compared = async { balancing::compare(&Binary::envoy()?, &Binary::subject()?).await };
    expect_ok(compared.await);
}

#[tokio::test]
async fn health_checks() {
    expect_ok(async { health::compare(&Binary::envoy()?, &Binary::subject()?).await }.await);
}

#[tokio::test]
async fn health_checks_at_each_interval() {
    expect_ok(async { health_intervals::compare(&Binary::envoy()?, &Binary::subject()?).await }.await);
}

#[tokio::test]
async fn health_checks_by_chance_and_at_run_time() {
    expect_ok(async { health_ruled::compare(&Binary::envoy()?, &Binary::subject()?).await }.await);
}

#[tokio::test]
async fn health_checks_of_hosts_that_come_and_go() {
    let compared = async { health_changes::compare_hosts(&Binary::envoy()?, &Binary::subject()?).await };
    expect_ok(compared.await);
}

#[tokio::test]
async fn health_checks_that_end_connections() {
    let compared = async { health_changes::compare_closing(&Binary::envoy()?, &Binary::subject()?).await };
    expect_ok(compared.await);
}

#[tokio::test]
async fn health_checks_that_clusters_wait_for() {
    let compared = async { health_changes::compare_warming(&Binary::envoy()?, &Binary::subject()?).await };
    expect_ok(compared.await);
}

#[tokio::test]
async fn health_checks_that_all_have_to_pass() {
    expect_ok(async { health_together::compare(&Binary::envoy()?, &Binary::subject()?).await }.await);
}

#[tokio::test]
async fn health_checks_that_speak_what_was_agreed_on() {
    expect_ok(async { health_alpn::compare(&Binary::envoy()?, &Binary::subject()?).await }.await);
}

#[tokio::test]
async fn health_checks_of_which_one_is_slow() {
    expect_ok(async { health_slow::compare(&Binary::envoy()?, &Binary::subject()?).await }.await);
}

#[tokio::test]
async fn statistics_of_single_hosts() {
    expect_ok(async { endpoint_stats::compare(&Binary::envoy()?, &Binary::subject()?).await }.await);
}

#[tokio::test]
async fn outliers() {
    expect_ok(async { outlier::compare(&Binary::envoy()?, &Binary::subject()?).await }.await);
}

#[tokio::test]
async fn hosts_that_start_slowly() {
    expect_ok(async { slow_start::compare(&Binary::envoy()?, &Binary::subject()?).await }.await);
}

#[tokio::test]
async fn hosts_of_keys() {
    let compared = async { hashing::compare(&Binary::envoy()?, &Binary::subject()?).await };
    expect_ok(compared.await);
}

#[tokio::test]
async fn subsets_of_hosts() {
    let compared = async { subsets::compare(&Binary::envoy()?, &Binary::subject()?).await };
    expect_ok(compared.await);
}

#[tokio::test]
async fn hosts_that_are_asked_for() {
    let compared = async { sessions::compare(&Binary::envoy()?, &Binary::subject()?).await };
    expect_ok(compared.await);
}

#[tokio::test]
async fn weights_that_hosts_report() {
    let compared = async { reported::compare(&Binary::envoy()?, &Binary::subject()?).await };
    expect_ok(compared.await);
}

#[tokio::test]
async fn loads_on_streams_of_their_own() {
    expect_ok(oob::compare().await);
}

#[tokio::test]
async fn shares_of_zones() {
    let compared = async { zones::compare(&Binary::envoy()?, &Binary::subject()?).await };
    expect_ok(compared.await);
}

#[tokio::test]
async fn breakers_that_open() {
    expect_ok(async { breakers::compare(&Binary::envoy()?, &Binary::subject()?).await }.await);
}

#[tokio::test]
async fn what_the_runtime_rules() {
    expect_ok(async { ruled::compare(&Binary::envoy()?, &Binary::subject()?).await }.await);
}

#[tokio::test]
async fn answers_that_are_counted() {
    expect_ok(async { answers::compare(&Binary::envoy()?, &Binary::subject()?).await }.await);
}

#[tokio::test]
async fn quotas_of_a_service() {
    expect_ok(quota::compare().await);
}

#[tokio::test]
async fn http2_frames() {
    differential(http2::options_setup(), http2::frame_cases()).await;
}

#[tokio::test]
async fn metadata_frames() {
    let compared = async { metadata::compare(&Binary::envoy()?, &Binary::subject()?).await };
    expect_ok(compared.await);
}

#[test]
fn verdicts_on_configuration() {
    let compare = || validate::compare(&Binary::envoy()?, &Binary::subject()?);
    expect_ok(compare());
}

#[tokio::test]
async fn health_discovery_begins() {
    let compared = async { health_discovery::compare_first(&Binary::envoy()?, &Binary::subject()?).await };
    expect_ok(compared.await);
}

#[tokio::test]
async fn health_discovery_changes() {
    let compared = async { health_discovery::compare_changes(&Binary::envoy()?, &Binary::subject()?).await };
    expect_ok(compared.await);
}

#[tokio::test]
async fn health_discovery_of_checks_that_disagree() {
    let compared =
        async { health_discovery::compare_disagreement(&Binary::envoy()?, &Binary::subject()?).await };
    expect_ok(compared.await);
}

#[tokio::test]
async fn health_discovery_that_is_refused() {
    let compared = async { health_discovery::compare_refusals(&Binary::envoy()?, &Binary::subject()?).await };
    expect_ok(compared.await);
}

#[tokio::test]
async fn health_discovery_that_ends() {
    let compared = async { health_discovery::compare_ends(&Binary::envoy()?, &Binary::subject()?).await };
    expect_ok(compared.await);
}

#[tokio::test]
async fn health_discovery_of_statuses() {
    let compared = async { health_discovery::compare_statuses(&Binary::envoy()?, &Binary::subject()?).await };
    expect_ok(compared.await);
}
