use std::fs;
use std::path::PathBuf;

use proxy_core::config::{BuildCx, BuildEnv};
use proxy_core::stats::Value;
use proxy_engine::listener::accept::ConnectionLimit;
use xds_api::envoy::config::overload::v3::OverloadManager;
use xds_api::read::{Options, Source, read};

use super::*;

/// A file that says how much is used.
struct Dial(tempfile::TempDir);

impl Dial {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("pressure")
    }

    fn set(&self, pressure: &str) {
        fs::write(self.path(), pressure).unwrap();
    }
}

const INJECTED: &str = "{name: dial, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.resource_monitors.injected_resource.v3.InjectedResourceConfig, filename: FILE}}";

fn build(env: &BuildEnv, yaml: &str) -> Result<OverloadConfig, String> {
    let source = Source::yaml("test", yaml.as_bytes());
    let options = Options::default();
    let read = read::<OverloadManager>(&source, &options).map_err(|errors| format!("{errors:?}"))?;
    let mut cx = BuildCx::new(env);
    OverloadConfig::build(&read.message, &mut cx).map_err(|_| cx.into_errors()[0].to_string())
}

fn manager(env: &BuildEnv, config: OverloadConfig) -> Option<Manager> {
    let connections = GlobalConnections::new(ConnectionLimit::OverloadManager(10));
    Manager::new(config, &connections, &env.stats)
}

fn stat(env: &BuildEnv, wanted: &str) -> u64 {
    let mut found = None;
    env.stats.visit(&mut |stat| {
        if stat.name == format!("overload.{wanted}") {
            found = match stat.value {
                Value::Counter(value) | Value::Gauge(value) => Some(value),
                _ => None,
            };
        }
    });
    found.unwrap()
}

const REQUESTS: &str = "envoy.overload_actions.stop_accepting_requests";
const KEEPALIVE: &str = "envoy.overload_actions.disable_http_keepalive";
const SHRINK: &str = "envoy.overload_actions.shrink_heap";
const ACCEPT: &str = "envoy.load_shed_points.tcp_listener_accept";

#[test]
fn pressure_leads_to_action_and_back() {
    let (env, dial) = (BuildEnv::new(1), Dial::new());
    let yaml = format!(
        "resource_monitors: [{INJECTED}]\n\
         actions:\n\
         - name: {REQUESTS}\n  triggers: [{{name: dial, threshold: {{value: 0.9}}}}]\n\
         - name: {KEEPALIVE}\n  triggers: [{{name: dial, scaled: {{scaling_threshold: 0.5, saturation_threshold: 1.0}}}}]\n\
         - name: {SHRINK}\n  triggers: [{{name: dial, threshold: {{value: 0.8}}}}]\n\
         loadshed_points:\n\
         - name: {ACCEPT}\n  triggers: [{{name: dial, threshold: {{value: 0.95}}}}]\n"
    );
    let config = build(&env, &yaml.replace("FILE", dial.path().to_str().unwrap())).unwrap();
    assert_eq!(config.most_connections, None);
    let mut manager = manager(&env, config).unwrap();
    let start = Instant::now();
    let shown = |name: &str, stat_name: &str| stat(&env, &format!("{name}.{stat_name}"));
    assert!(!manager.look(start), "there is no file");
    assert_eq!(shown("dial", "failed_updates"), 1);
    dial.set("0.75");
    assert!(!manager.look(start));
    assert_eq!((shown("dial", "pressure"), shown(KEEPALIVE, "scale_percent")), (75, 50));
    assert_eq!(
        (shown(KEEPALIVE, "active"), shown(REQUESTS, "active"), shown(ACCEPT, "scale_percent")),
        (0, 0, 0)
    );
    dial.set("0.95");
    manager.look(start);
    assert_eq!((shown(KEEPALIVE, "scale_percent"), shown(KEEPALIVE, "active")), (90, 0));
    assert_eq!((shown(REQUESTS, "scale_percent"), shown(REQUESTS, "active")), (100, 1));
    assert_eq!(shown(ACCEPT, "scale_percent"), 100);
    dial.set("nonsense");
    manager.look(start);
    assert_eq!((shown("dial", "failed_updates"), shown(REQUESTS, "active")), (2, 1), "what was known holds");
    dial.set("0");
    manager.look(start);
    assert_eq!((shown(REQUESTS, "active"), shown(KEEPALIVE, "scale_percent")), (0, 0));
}

#[test]
fn memory_is_given_back_once_an_interval_while_it_is_short() {
    let (env, dial) = (BuildEnv::new(1), Dial::new());
    let yaml = format!(
        "resource_monitors: [{INJECTED}]\n\
         actions:\n\
         - name: {SHRINK}\n  triggers: [{{name: dial, threshold: {{value: 0.8}}}}]\n  \
         typed_config: {{\"@type\": type.googleapis.com/envoy.config.overload.v3.ShrinkHeapConfig, timer_interval: 5s, max_unfreed_memory_bytes: 1}}\n"
    );
    let config = build(&env, &yaml.replace("FILE", dial.path().to_str().unwrap())).unwrap();
    let mut manager = manager(&env, config).unwrap();
    let start = manager.shrinking.as_ref().unwrap().next;
    let at = |seconds| start + Duration::from_secs(seconds);
    dial.set("0.7");
    assert!(!manager.look(at(0)), "there is enough");
    dial.set("0.9");
    assert!(!manager.look(at(4)), "not yet");
    assert!(manager.look(at(5)));
    assert!(!manager.look(at(9)));
    assert!(manager.look(at(10)));
    assert_eq!(stat(&env, &format!("{SHRINK}.shrink_count")), 2);
    dial.set("0.7");
    assert!(!manager.look(at(15)));
}

#[test]
fn the_trigger_that_asks_for_most_is_heard() {
    let triggers = vec![(0, Trigger::Threshold(0.5)), (1, Trigger::Scaled(0.2, 0.6))];
    let asked = |first, second| share(&triggers, &[first, second]);
    assert_eq!(asked(None, None), 0.0);
    assert_eq!(asked(Some(0.4), Some(0.2)), 0.0);
    assert!((asked(Some(0.4), Some(0.4)) - 0.5).abs() < 1e-9);
    assert_eq!(asked(Some(0.4), Some(2.0)), 1.0);
    assert_eq!(asked(Some(0.5), Some(0.4)), 1.0);
}

#[test]
fn connections_alone_need_no_manager_unless_something_is_done() {
    let env = BuildEnv::new(1);
    let monitor = "resource_monitors: [{name: envoy.resource_monitors.global_downstream_max_connections, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig, max_active_downstream_connections: 10}}]\n";
    let config = build(&env, monitor).unwrap();
    assert_eq!(config.most_connections, Some(10));
    assert!(manager(&env, config).is_none());
    let trigger =
        "{name: envoy.resource_monitors.global_downstream_max_connections, threshold: {value: 0.5}}";
    let config =
        build(&env, &format!("{monitor}actions: [{{name: {REQUESTS}, triggers: [{trigger}]}}]")).unwrap();
    let mut manager = manager(&env, config).unwrap();
    manager.look(Instant::now());
    assert_eq!(stat(&env, &format!("{REQUESTS}.active")), 0);
}

#[test]
fn what_cannot_be_is_refused_with_its_place() {
    let env = BuildEnv::new(1);
    let monitors = |more: &str| format!("resource_monitors: [{INJECTED}]\n{more}");
    let heap = "type.googleapis.com/envoy.extensions.resource_monitors.fixed_heap.v3.FixedHeapConfig";
    let any = "type.googleapis.com/envoy.extensions.filters.http.buffer.v3.BufferPerRoute";
    let timers = "type.googleapis.com/envoy.config.overload.v3.ScaleTimersOverloadActionConfig";
    let shrink = "type.googleapis.com/envoy.config.overload.v3.ShrinkHeapConfig";
    let trigger = "triggers: [{name: dial, threshold: {value: 0.9}}]";
    let action = |name: &str, more: &str| {
        monitors(&format!("actions: [{{name: envoy.overload_actions.{name}, {more}}}]"))
    };
    let reduce = |factors: &str| {
        action(
            "reduce_timeouts",
            &format!("{trigger}, typed_config: {{\"@type\": {timers}, timer_scale_factors: {factors}}}"),
        )
    };
    let refused = [
        (
            format!("resource_monitors: [{INJECTED}, {INJECTED}]"),
            "resource_monitors[1]: Duplicate resource monitor dial",
        ),
        (
            format!("resource_monitors: [{{name: it, typed_config: {{\"@type\": {any}, disabled: true}}}}]"),
            "resource_monitors[0].typed_config: extension type",
        ),
        (
            format!(
                "resource_monitors: [{{name: heap, typed_config: {{\"@type\": {heap}, max_heap_size_bytes_runtime: {{runtime_key: key}}}}}}]"
            ),
            "resource_monitors[0].typed_config.max_heap_size_bytes: max heap size",
        ),
        (
            action("reset_high_memory_stream", trigger),
            "actions[0]: Overload action \"envoy.overload_actions.reset_high_memory_stream\" requires buffer_factory_config.",
        ),
        (
            action("close_idle_http_connections", trigger),
            "actions[0].name: action 'envoy.overload_actions.close_idle_http_connections' is not",
        ),
        (
            action("shrink_heap", "triggers: [{name: other, threshold: {value: 0.9}}]"),
            "actions[0].triggers[0]: Unknown trigger resource other",
        ),
        (
            action(
                "shrink_heap",
                "triggers: [{name: dial, threshold: {value: 0.9}}, {name: dial, threshold: {value: 0.8}}]",
            ),
            "actions[0].triggers[1]: Duplicate trigger resource",
        ),
        (
            action(
                "shrink_heap",
                "triggers: [{name: dial, scaled: {scaling_threshold: 0.9, saturation_threshold: 0.9}}]",
            ),
            "actions[0].triggers[0]: scaling_threshold must be less",
        ),
        (
            action("stop_accepting_requests", &format!("{trigger}, typed_config: {{\"@type\": {shrink}}}")),
            "actions[0].typed_config: this action has nothing",
        ),
        (
            action(
                "shrink_heap",
                &format!(
                    "{trigger}, typed_config: {{\"@type\": {timers}, timer_scale_factors: [{{timer: TRANSPORT_SOCKET_CONNECT, min_timeout: 1s}}]}}"
                ),
            ),
            "actions[0].typed_config: must be a envoy.config.overload.v3.ShrinkHeapConfig",
        ),
        (action("reduce_timeouts", trigger), "actions[0].typed_config: must be a"),
        (
            reduce("[{timer: UNSPECIFIED, min_timeout: 1s}]"),
            "actions[0].typed_config.timer_scale_factors[0].timer: Unknown timer type 0",
        ),
        (
            reduce(
                "[{timer: HTTP_DOWNSTREAM_STREAM_IDLE, min_timeout: 1s}, {timer: HTTP_DOWNSTREAM_STREAM_IDLE, min_scale: {value: 5}}]",
            ),
            "timer_scale_factors[1]: Found duplicate entry for timer type HTTP_DOWNSTREAM_STREAM_IDLE",
        ),
        (
            monitors(&format!(
                "loadshed_points: [{{name: envoy.load_shed_points.http3_server_go_away_on_dispatch, {trigger}}}]"
            )),
            "loadshed_points[0].name: load shed point",
        ),
        (
            monitors(&format!("actions: [{{name: {SHRINK}, {trigger}}}, {{name: {SHRINK}, {trigger}}}]")),
            "actions[1]: Duplicate overload action envoy.overload_actions.shrink_heap",
        ),
    ];
    for (yaml, expected) in refused {
        let error = build(&env, &yaml).expect_err(expected);
        assert!(error.contains(expected), "{error}");
    }
}
