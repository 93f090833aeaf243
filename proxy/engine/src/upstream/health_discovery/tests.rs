use tokio::task::LocalSet;
use xds_api::read::{Options, Source, read};

use super::*;

const HTTP: &str =
    "{timeout: 1s, interval: 1s, unhealthy_threshold: 1, healthy_threshold: 1, http_health_check: {path: /}}";
const TCP: &str =
    "{timeout: 1s, interval: 1s, unhealthy_threshold: 1, healthy_threshold: 1, tcp_health_check: {}}";

/// A cluster of hosts at these ports, with further fields.
fn cluster(name: &str, ports: &[u16], checks: &[&str], more: &str) -> String {
    let endpoint =
        |port: &u16| format!("{{address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}}}");
    let endpoints: Vec<String> = ports.iter().map(endpoint).collect();
    format!(
        "- {{cluster_name: '{name}', health_checks: [{}], locality_endpoints: [{{endpoints: [{}]}}]{more}}}\n",
        checks.join(", "),
        endpoints.join(", ")
    )
}

fn specifier(clusters: &[String], more: &str) -> Vec<u8> {
    let text = format!("cluster_health_checks:\n{}{more}", clusters.concat());
    let read = read::<proto::HealthCheckSpecifier>(&Source::yaml("t", text.as_bytes()), &Options::default());
    read.unwrap().message.encode_to_vec()
}

/// Within what checks run in.
async fn with_delegate(test: impl FnOnce(&mut Delegate)) {
    let mut delegate = Delegate::new(Arc::new(BuildEnv::new(1)));
    LocalSet::new().run_until(async { test(&mut delegate) }).await;
}

fn names(delegate: &Delegate) -> Vec<String> {
    let report = delegate.report().unwrap_or_default();
    report.cluster_endpoints_health.into_iter().map(|cluster| cluster.cluster_name).collect()
}

#[tokio::test]
async fn what_two_specifiers_have_in_common_goes_on() {
    with_delegate(|delegate| {
        let first = specifier(&[cluster("a", &[1, 2], &[HTTP], ""), cluster("b", &[1], &[TCP], "")], "");
        assert_eq!(delegate.take(&first), Ok(true));
        assert_eq!(delegate.take(&first), Ok(false));
        assert_eq!(names(delegate), ["a", "b"]);
        let cluster_of = |delegate: &Delegate| delegate.clusters[0].cluster.clone();
        let hosts = |delegate: &Delegate| delegate.clusters[0].hosts.hosts().cloned().collect::<Vec<_>>();
        let checkers = |delegate: &Delegate| {
            delegate.clusters[0].checks.iter().map(|check| check.checker.clone()).collect::<Vec<_>>()
        };
        let before = (cluster_of(delegate), hosts(delegate), checkers(delegate));
        let second = specifier(&[cluster("a", &[2, 3], &[TCP, HTTP], "")], "interval: 3s\n");
        assert_eq!(delegate.take(&second), Ok(true));
        assert_eq!(delegate.interval(), Some(Duration::from_secs(3)));
        assert_eq!(names(delegate), ["a"]);
        assert!(Arc::ptr_eq(&cluster_of(delegate), &before.0));
        assert!(Arc::ptr_eq(&hosts(delegate)[0], &before.1[1]));
        assert!(Arc::ptr_eq(&checkers(delegate)[1], &before.2[0]));
        assert_eq!((hosts(delegate).len(), checkers(delegate).len()), (2, 2));
        // Spoken with in another way, everything is another.
        let bound = ", upstream_bind_config: {source_address: {address: 127.0.0.1, port_value: 0}}";
        let third = specifier(&[cluster("a", &[2, 3], &[TCP, HTTP], bound)], "");
        assert_eq!(delegate.take(&third), Ok(true));
        assert_eq!(delegate.interval(), Some(INTERVAL));
        assert!(!Arc::ptr_eq(&cluster_of(delegate), &before.0));
        assert!(!Arc::ptr_eq(&hosts(delegate)[0], &before.1[1]));
    })
    .await;
}

/// Beyond the end of all clocks: text cannot say it, and a service can.
#[tokio::test]
async fn the_longest_interval_is_a_long_one() {
    with_delegate(|delegate| {
        let interval = Some(prost_types::Duration { seconds: i64::MAX, nanos: 0 });
        let specifier = proto::HealthCheckSpecifier { interval, ..Default::default() };
        assert_eq!(delegate.take(&specifier.encode_to_vec()), Ok(true));
        assert_eq!(delegate.interval(), Some(LONGEST_INTERVAL));
    })
    .await;
}

#[tokio::test]
async fn names_say_who_is_the_same() {
    with_delegate(|delegate| {
        let all = [
            cluster("a", &[1], &[TCP], ""),
            cluster("", &[2], &[TCP], ""),
            cluster("a", &[3], &[TCP], ""),
            cluster("", &[4], &[TCP], ""),
        ];
        assert_eq!(delegate.take(&specifier(&all, "")), Ok(true));
        assert_eq!(names(delegate), ["a", "", ""]);
        let before: Vec<_> = delegate.clusters.iter().map(|checked| checked.cluster.clone()).collect();
        assert_eq!(delegate.take(&specifier(&all, "interval: 2s")), Ok(true));
        let same = |(now, before): (&Checked, &Arc<Cluster>)| Arc::ptr_eq(&now.cluster, before);
        let same: Vec<bool> = delegate.clusters.iter().zip(&before).map(same).collect();
        assert_eq!(same, [true, false, false]);
    })
    .await;
}

#[tokio::test]
async fn what_is_wrong_changes_nothing() {
    with_delegate(|delegate| {
        let good = specifier(&[cluster("a", &[1], &[TCP], "")], "");
        assert_eq!(delegate.take(&good), Ok(true));
        let report = delegate.report();
        for (bad, path) in [
            ("{interval: 1s, tcp_health_check: {}}", "cluster_health_checks[1].health_checks[0].timeout"),
            (
                "{timeout: 1s, interval: 1s, unhealthy_threshold: 1, healthy_threshold: 1, grpc_health_check: {}}",
                "cluster_health_checks[1].health_checks[0].grpc_health_check",
            ),
        ] {
            let bad = [cluster("c", &[1], &[TCP], ""), cluster("d", &[1], &[bad], "")];
            let Err(Refused::Wrong(errors)) = delegate.take(&specifier(&bad, "")) else { panic!("{path}") };
            assert!(errors.iter().any(|error| error.path == path), "{errors:?}");
            assert_eq!(delegate.report(), report);
        }
        assert!(matches!(delegate.take(b"\xff\xff"), Err(Refused::Unreadable(_))));
        assert_eq!(delegate.take(&good), Ok(false));
        delegate.restart();
        assert_eq!((delegate.interval(), delegate.report()), (None, report));
        assert_eq!(delegate.take(&good), Ok(true));
    })
    .await;
}
