//! The three formats against what Envoy 1.40 answered for the same values; selection, resets and flushes.

use xds_api::envoy::config::metrics::v3::{
    HistogramBucketSettings, StatsConfig, StatsMatcher, stats_matcher::StatsMatcher as Kind,
};
use xds_api::envoy::r#type::matcher::v3::{
    ListStringMatcher, RegexMatcher, StringMatcher, string_matcher::MatchPattern,
};

use super::groups::{ClusterTrafficStats, HttpStats, XdsStats};
use super::*;

fn filtered(filter: &str, buckets: BucketMode) -> Selection {
    Selection {
        filter: Some(crate::matcher::regex::Search::new(filter).unwrap()),
        buckets,
        ..Selection::default()
    }
}

/// `http.ing` after four requests of 0, 0, 1 and 2 ms, flushed.
fn four_requests() -> (std::sync::Arc<Registry>, Cells<HttpStats>) {
    let registry = Registry::new(1);
    let http: Cells<HttpStats> = registry.scope("http.ing").cells();
    for time in [0, 0, 1, 2] {
        http.here().downstream_rq_time.record(time);
    }
    http.here().downstream_rq_2xx.add(4);
    registry.flush();
    (registry, http)
}

const SUMMARY: &str = "P0(0,0) P25(0,0) P50(0,0) P75(1.05,1.05) P90(2.05,2.05) P95(2.05,2.05) P99(2.05,2.05) \
                       P99.5(2.05,2.05) P99.9(2.05,2.05) P100(2.05,2.05)";

#[test]
fn text_is_that_of_envoy() {
    let (registry, http) = four_requests();
    let show = |buckets| text::render(&registry, &filtered("rq_time$", buckets));
    assert_eq!(show(BucketMode::Unset), format!("http.ing.downstream_rq_time: {SUMMARY}\n"));
    assert_eq!(show(BucketMode::Summary), show(BucketMode::Unset));
    assert_eq!(
        show(BucketMode::Cumulative),
        "http.ing.downstream_rq_time: B0.5(2,2) B1(3,3) B5(4,4) B10(4,4) B25(4,4) B50(4,4) B100(4,4) B250(4,4) \
         B500(4,4) B1000(4,4) B2500(4,4) B5000(4,4) B10000(4,4) B30000(4,4) B60000(4,4) B300000(4,4) B600000(4,4) \
         B1.8e+06(4,4) B3.6e+06(4,4)\n"
    );
    assert!(
        show(BucketMode::Disjoint)
            .starts_with("http.ing.downstream_rq_time: B0.5(2,2) B1(1,1) B5(1,1) B10(0,0) ")
    );
    assert_eq!(
        show(BucketMode::Detailed),
        format!(
            "http.ing.downstream_rq_time:\n  totals=0,0:2, 1,0.1:1, 2,0.1:1\n  intervals=0,0:2, 1,0.1:1, 2,0.1:1\n  \
             summary={SUMMARY}\n"
        )
    );
    // Nothing in the next interval.
    registry.flush();
    assert!(show(BucketMode::Unset).contains("P0(nan,0) P25(nan,0) P50(nan,0) P75(nan,1.05)"));
    // Recorded, but not yet flushed.
    http.here().downstream_cx_length_ms.record(7);
    assert_eq!(
        text::render(&registry, &filtered("length", BucketMode::Unset)),
        "http.ing.downstream_cx_length_ms: No recorded values\n"
    );
}

#[test]
fn text_has_texts_first_then_numbers_then_histograms() {
    let registry = Registry::new(0);
    let lds: Shared<XdsStats> = registry.scope("listener_manager.lds").shared();
    lds.version_text.set("v \"9\"");
    lds.update_success.inc();
    let _odd = registry.scope("cluster.a-b").counter("x");
    let shown = text::render(&registry, &Selection::default());
    let names: Vec<&str> = shown.lines().map(|line| line.split(':').next().unwrap()).collect();
    assert_eq!(shown.lines().next(), Some("listener_manager.lds.version_text: \"v \"9\"\""));
    assert_eq!(names[1], "cluster.a-b.x");
    assert_eq!(shown.lines().last(), Some("listener_manager.lds.update_duration: No recorded values"));
    let used = text::render(&registry, &Selection { used_only: true, ..Selection::default() });
    assert_eq!(
        used,
        "listener_manager.lds.version_text: \"v \"9\"\"\nlistener_manager.lds.update_success: 1\n"
    );
}

#[test]
fn json_is_that_of_envoy() {
    let (registry, _http) = four_requests();
    let show = |filter: &str, buckets| json::render(&registry, &filtered(filter, buckets));
    assert_eq!(
        show("rq_2xx", BucketMode::Unset),
        r#"{"stats":[{"name":"http.ing.downstream_rq_2xx","value":4}]}"#
    );
    assert_eq!(show("nothing", BucketMode::Unset), r#"{"stats":[]}"#);
    let quantiles = show("rq_time$", BucketMode::Unset);
    assert!(
        quantiles.starts_with(
            r#"{"stats":[{"histograms":{"supported_quantiles":[0,25,50,75,90,95,99,99.5,99.9,100],"computed_quantiles":[{"name":"http.ing.downstream_rq_time","values":[{"cumulative":0,"interval":0},"#
        ),
        "{quantiles}"
    );
    assert!(quantiles.ends_with(r#"{"cumulative":2.05,"interval":2.05}]}]}}]}"#), "{quantiles}");
    let buckets = show("rq_time$", BucketMode::Cumulative);
    assert!(
        buckets.starts_with(
            r#"{"stats":[{"histograms":[{"name":"http.ing.downstream_rq_time","buckets":[{"upper_bound":0.5,"interval":2,"cumulative":2},{"upper_bound":1,"interval":3,"cumulative":3},"#
        ),
        "{buckets}"
    );
    assert!(buckets.contains(r#"{"upper_bound":3e+05,"interval":4,"cumulative":4}"#), "{buckets}");
    let detailed = show("rq_time$", BucketMode::Detailed);
    assert!(
        detailed.contains(
            r#"{"supported_percentiles":[0,25,50,75,90,95,99,99.5,99.9,100],"details":[{"name":"http.ing.downstream_rq_time","totals":[{"lower_bound":0,"width":0,"count":2},{"lower_bound":1,"width":0.1,"count":1},{"lower_bound":2,"width":0.1,"count":1}],"intervals":["#
        ),
        "{detailed}"
    );
    let empty = show("length", BucketMode::Unset);
    assert!(empty.contains(r#"{"cumulative":null,"interval":null}"#), "{empty}");
}

#[test]
fn prometheus_is_that_of_envoy() {
    let (registry, _http) = four_requests();
    let show = |buckets| prometheus::render(&registry, &filtered("rq_time$", buckets));
    let summary = show(BucketMode::Summary).unwrap();
    let expected = [
        "# TYPE envoy_http_downstream_rq_time summary",
        r#"envoy_http_downstream_rq_time{envoy_http_conn_manager_prefix="ing",quantile="0"} 0"#,
        r#"envoy_http_downstream_rq_time{envoy_http_conn_manager_prefix="ing",quantile="0.25"} 0"#,
        r#"envoy_http_downstream_rq_time{envoy_http_conn_manager_prefix="ing",quantile="0.5"} 0"#,
        r#"envoy_http_downstream_rq_time{envoy_http_conn_manager_prefix="ing",quantile="0.75"} 1.0500000000000000444089209850063"#,
    ];
    assert_eq!(summary.lines().take(5).collect::<Vec<_>>(), expected);
    assert!(summary.ends_with(
        "envoy_http_downstream_rq_time_sum{envoy_http_conn_manager_prefix=\"ing\"} 3.096399535423925541977041575592\n\
         envoy_http_downstream_rq_time_count{envoy_http_conn_manager_prefix=\"ing\"} 4\n"
    ));
    let buckets = show(BucketMode::Unset).unwrap();
    assert!(buckets.contains("_bucket{envoy_http_conn_manager_prefix=\"ing\",le=\"1\"} 3\n"), "{buckets}");
    assert!(
        buckets.contains("_bucket{envoy_http_conn_manager_prefix=\"ing\",le=\"3600000\"} 4\n"),
        "{buckets}"
    );
    assert!(buckets.contains("_bucket{envoy_http_conn_manager_prefix=\"ing\",le=\"+Inf\"} 4\n"), "{buckets}");
    assert_eq!(show(BucketMode::Detailed), Err(prometheus::UnsupportedBuckets));
    let lds: Shared<XdsStats> = registry.scope("http.ing.rds.r.x").shared();
    lds.version_text.set("7\n");
    let texts = Selection { text_readouts: true, ..filtered("version_text", BucketMode::Unset) };
    assert_eq!(
        prometheus::render(&registry, &texts).unwrap(),
        "# TYPE envoy_http_rds_version_text gauge\nenvoy_http_rds_version_text{envoy_rds_route_config=\"r.x\",\
         envoy_http_conn_manager_prefix=\"ing\",text_value=\"7\\n\"} 0\n"
    );
}

#[test]
fn fixed_tags_follow_the_worker_and_labels_are_escaped() {
    let config = StatsConfig::default();
    let settings = Settings::build(&config, &[("cli".into(), "x\"y".into())]).unwrap();
    let registry = Registry::with_settings(1, settings);
    let _listener = registry.scope("listener.127.0.0.1_0.worker_0").counter("downstream_cx_total");
    let shown = prometheus::render(&registry, &Selection::default()).unwrap();
    assert_eq!(
        shown,
        "# TYPE envoy_listener_worker_downstream_cx_total counter\nenvoy_listener_worker_downstream_cx_total\
         {envoy_worker_id=\"0\",cli=\"x\\\"y\",envoy_listener_address=\"127.0.0.1_0\"} 0\n"
    );
}

#[test]
fn a_reset_takes_counters_and_codes_back_to_zero_but_keeps_them_used() {
    let registry = Registry::new(0);
    let cluster: Cells<ClusterTrafficStats> = registry.scope("cluster.c").cells();
    let one_off = registry.counter("runtime.load_success");
    let here = cluster.here();
    here.upstream_rq_total.add(5);
    here.upstream_rq_active.add(2);
    here.upstream_rq.inc(200);
    one_off.add(3);
    registry.reset_counters();
    here.upstream_rq_total.inc();
    here.upstream_rq.inc(200);
    here.upstream_rq.inc(503);
    let shown = text::render(&registry, &Selection { used_only: true, ..Selection::default() });
    assert_eq!(
        shown,
        "cluster.c.upstream_rq_200: 1\ncluster.c.upstream_rq_2xx: 1\ncluster.c.upstream_rq_503: 1\n\
         cluster.c.upstream_rq_5xx: 1\ncluster.c.upstream_rq_active: 2\ncluster.c.upstream_rq_completed: 2\n\
         cluster.c.upstream_rq_total: 1\nruntime.load_success: 0\n"
    );
}

fn pattern(pattern: MatchPattern) -> StringMatcher {
    StringMatcher { ignore_case: false, match_pattern: Some(pattern) }
}

fn with_matcher(kind: Kind) -> Settings {
    let config = StatsConfig {
        stats_matcher: Some(StatsMatcher { stats_matcher: Some(kind) }),
        ..StatsConfig::default()
    };
    Settings::build(&config, &[]).unwrap()
}

#[test]
fn the_matcher_decides_what_exists() {
    let patterns = || ListStringMatcher {
        patterns: vec![
            pattern(MatchPattern::Prefix("cluster.c.upstream_rq_t".into())),
            pattern(MatchPattern::Suffix("_503".into())),
            pattern(MatchPattern::SafeRegex(RegexMatcher {
                regex: r"run.*\..*_success".into(),
                ..RegexMatcher::default()
            })),
        ],
    };
    let names = |settings: Settings| {
        let registry = Registry::with_settings(0, settings);
        let cluster: Cells<ClusterTrafficStats> = registry.scope("cluster.c").cells();
        cluster.here().upstream_rq.inc(503);
        cluster.here().upstream_rq_total.inc();
        cluster.here().upstream_cx_total.inc();
        registry.counter("runtime.load_success").inc();
        text::render(&registry, &Selection { used_only: true, ..Selection::default() })
    };
    assert_eq!(
        names(with_matcher(Kind::InclusionList(patterns()))),
        "cluster.c.upstream_rq_503: 1\ncluster.c.upstream_rq_total: 1\nruntime.load_success: 1\n"
    );
    assert_eq!(
        names(with_matcher(Kind::ExclusionList(patterns()))),
        "cluster.c.upstream_cx_total: 1\ncluster.c.upstream_rq_5xx: 1\ncluster.c.upstream_rq_completed: 1\n"
    );
    assert_eq!(names(with_matcher(Kind::RejectAll(true))), "");
    assert!(names(with_matcher(Kind::RejectAll(false))).contains("upstream_cx_total: 1\n"));
}

#[test]
fn buckets_come_from_the_first_setting_that_matches() {
    let setting = |suffix: &str, buckets: Vec<f64>| HistogramBucketSettings {
        r#match: Some(pattern(MatchPattern::Suffix(suffix.into()))),
        buckets,
        bins: None,
    };
    let config = StatsConfig {
        histogram_bucket_settings: vec![
            setting("rq_time", vec![1000.5, 255.0]),
            setting("time", vec![1.0]),
            setting("length_ms", vec![]),
        ],
        ..StatsConfig::default()
    };
    let settings = Settings::build(&config, &[]).unwrap();
    assert_eq!(settings.buckets("http.a.downstream_rq_time"), [255.0, 1000.5]);
    assert_eq!(settings.buckets("x.time"), [1.0]);
    assert_eq!(settings.buckets("x.length_ms"), DEFAULT_BUCKETS);
    let broken = StatsConfig {
        histogram_bucket_settings: vec![HistogramBucketSettings::default()],
        stats_matcher: Some(StatsMatcher::default()),
        ..StatsConfig::default()
    };
    let paths: Vec<String> =
        Settings::build(&broken, &[]).unwrap_err().into_iter().map(|error| error.path).collect();
    assert_eq!(paths, ["stats_config.stats_matcher", "stats_config.histogram_bucket_settings[0].match"]);
}

#[test]
fn hidden_and_kinds_are_selected() {
    crate::stats! {
        pub(super) shared struct Mixed {
            counter counted,
            gauge levelled [hidden],
            histogram measured (Milliseconds),
            text told,
        }
    }
    let registry = Registry::new(0);
    let mixed: Shared<Mixed> = registry.scope("m").shared();
    mixed.told.set("a");
    let names = |selection: Selection| {
        let shown = text::render(&registry, &selection);
        shown.lines().map(|line| line.split(':').next().unwrap().to_owned()).collect::<Vec<_>>().join(" ")
    };
    let hidden = |hidden| Selection { hidden, ..Selection::default() };
    let kind = |kind| Selection { kind, ..Selection::default() };
    assert_eq!(names(Selection::default()), "m.told m.counted m.measured");
    assert_eq!(names(hidden(HiddenFilter::Include)), "m.told m.counted m.levelled m.measured");
    assert_eq!(names(hidden(HiddenFilter::Only)), "m.levelled");
    assert_eq!(names(kind(KindFilter::Counters)), "m.counted");
    assert_eq!(names(kind(KindFilter::Histograms)), "m.measured");
    assert_eq!(names(kind(KindFilter::TextReadouts)), "m.told");
    assert_eq!(names(kind(KindFilter::Gauges)), "");
    let inverted = Selection { invert_filter: true, ..filtered("told|meas", BucketMode::Unset) };
    assert_eq!(names(inverted), "m.counted");
}
