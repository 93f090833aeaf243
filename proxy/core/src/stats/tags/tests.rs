use super::*;

fn shown(producer: &TagProducer, name: &str) -> (String, Vec<(String, String)>) {
    let mut tags = Vec::new();
    let left = producer.extract(name, |tag| tags.push((tag.name.to_owned(), tag.value.to_owned())));
    (left, tags)
}

#[track_caller]
fn check(name: &str, left: &str, tags: &[(&str, &str)]) {
    let (shown_left, shown_tags) = shown(&TagProducer::default(), name);
    let tags: Vec<_> =
        tags.iter().map(|(name, value)| (format!("envoy.{name}"), (*value).to_owned())).collect();
    assert_eq!((shown_left.as_str(), shown_tags), (left, tags), "{name}");
}

#[test]
fn default_tags_are_those_of_envoy() {
    check(
        "cluster.c.upstream_rq_503",
        "cluster.upstream_rq",
        &[("response_code", "503"), ("cluster_name", "c")],
    );
    check(
        "cluster.c.external.upstream_rq_5xx",
        "cluster.external.upstream_rq_xx",
        &[("response_code_class", "5"), ("cluster_name", "c")],
    );
    // A cluster name with a dot is cut there, as Envoy does.
    check(
        "cluster.outbound|80||a.b_c.bind_errors",
        "cluster.b_c.bind_errors",
        &[("cluster_name", "outbound|80||a")],
    );
    check(
        "cluster.c.health_check.name.a.attempt",
        "cluster.health_check.attempt",
        &[("health_check_name", "a"), ("cluster_name", "c")],
    );
    check("cluster.c.health_check.attempt", "cluster.health_check.attempt", &[("cluster_name", "c")]);
    check(
        "listener.127.0.0.1_0.downstream_cx_total",
        "listener.downstream_cx_total",
        &[("listener_address", "127.0.0.1_0")],
    );
    check("listener.[__1]_80.x", "listener.x", &[("listener_address", "[__1]_80")]);
    check("listener.mylis.x", "listener.x", &[("listener_address", "mylis")]);
    check("listener.admin.downstream_cx_total", "listener.admin.downstream_cx_total", &[]);
    check(
        "listener.admin.http.admin.downstream_rq_2xx",
        "listener.admin.http.downstream_rq_xx",
        &[("response_code_class", "2"), ("http_conn_manager_prefix", "admin")],
    );
    check(
        "listener.127.0.0.1_0.http.ing.downstream_rq_completed",
        "listener.http.downstream_rq_completed",
        &[("http_conn_manager_prefix", "ing"), ("listener_address", "127.0.0.1_0")],
    );
    check(
        "listener.127.0.0.1_0.worker_12.downstream_cx_total",
        "listener.worker_downstream_cx_total",
        &[("worker_id", "12"), ("listener_address", "127.0.0.1_0")],
    );
    check("server.worker_0.watchdog_miss", "server.worker_watchdog_miss", &[("worker_id", "0")]);
    check("http.ing.downstream_rq_time", "http.downstream_rq_time", &[("http_conn_manager_prefix", "ing")]);
    check(
        "http.ing.rds.a.b-c.update_success",
        "http.rds.update_success",
        &[("rds_route_config", "a.b-c"), ("http_conn_manager_prefix", "ing")],
    );
    check(
        "vhost.vh.vcluster.vc.upstream_rq_200",
        "vhost.vcluster.upstream_rq",
        &[("response_code", "200"), ("virtual_cluster", "vc"), ("virtual_host", "vh")],
    );
    check(
        "vhost.vh.route.rsp.upstream_rq_total",
        "vhost.route.upstream_rq_total",
        &[("virtual_host", "vh"), ("route", "rsp")],
    );
    check("tcp.tp.idle_timeout", "tcp.idle_timeout", &[("tcp_prefix", "tp")]);
    check(
        "listener.mylis.ssl.ciphers.TLS_AES_256_GCM_SHA384",
        "listener.ssl.ciphers",
        &[("ssl_cipher", "TLS_AES_256_GCM_SHA384"), ("listener_address", "mylis")],
    );
    check(
        "listener.mylis.ssl.versions.TLSv1.3",
        "listener.ssl.versions",
        &[("ssl_version", "TLSv1.3"), ("listener_address", "mylis")],
    );
    check(
        "cluster.c.ssl.curves.X25519",
        "cluster.ssl.curves",
        &[("ssl_curve", "X25519"), ("cluster_name", "c")],
    );
    check("server.live", "server.live", &[]);
    check("proxy_proto.versions.v1.found", "proxy_proto.found", &[("proxy_protocol_version", "1")]);
}

fn specifier(name: &str, regex: &str) -> TagSpecifier {
    TagSpecifier { tag_name: name.to_owned(), tag_value: Some(TagValue::Regex(regex.to_owned())) }
}

#[test]
fn istio_expressions_with_look_ahead_work() {
    let producer = TagProducer::build(
        &[
            specifier("cluster_name", r"^cluster(\.(.+);)"),
            specifier(
                "http_conn_manager_prefix",
                r"^http\.(((?:[_.[:digit:]\w]*|[_\[\]aAbBcCdDeEfF[:digit:]\w\:]*));\.)",
            ),
            specifier("tcp_prefix", r"^tcp\.((.*?)\.)\w+?$"),
            specifier("response_code", r"_rq(_(\d{3}))$"),
            specifier("response_code_class", r"_rq(_(\dxx))$"),
            specifier(
                "http_conn_manager_listener_prefix",
                r"^listener(?=\.).*?\.http\.(((?:[_.[:digit:]]*|[_\[\]aAbBcCdDeEfF[:digit:]]*))\.)",
            ),
            specifier(
                "listener_address",
                r"^listener\.(((?:[_.[:digit:]]*|[_\[\]aAbBcCdDeEfF[:digit:]]*))\.)",
            ),
            specifier("authz_dry_run_result", r"(\.shadow_(allowed|denied))"),
        ],
        false,
        false,
        &[],
    )
    .unwrap();
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    assert_eq!(
        shown(&producer, "cluster.outbound|80|v1|a.b.c;.upstream_rq_200"),
        (
            "cluster.upstream_rq".into(),
            vec![pair("cluster_name", "outbound|80|v1|a.b.c"), pair("response_code", "200"),]
        )
    );
    assert_eq!(
        shown(&producer, "listener.0.0.0.0_15006.http.0.0.0.0_15006.downstream_rq_5xx"),
        (
            "listener.http.downstream_rq".into(),
            vec![
                pair("response_code_class", "5xx"),
                pair("http_conn_manager_listener_prefix", "0.0.0.0_15006"),
                pair("listener_address", "0.0.0.0_15006"),
            ]
        )
    );
    assert_eq!(
        shown(&producer, "http.inbound_0.0.0.0_80;.downstream_cx_total"),
        ("http.downstream_cx_total".into(), vec![pair("http_conn_manager_prefix", "inbound_0.0.0.0_80")])
    );
    assert_eq!(
        shown(&producer, "x.rbac.shadow_denied"),
        ("x.rbac".into(), vec![pair("authz_dry_run_result", "denied")])
    );
}

#[test]
fn one_group_is_both_removed_and_the_value() {
    let producer = TagProducer::build(&[specifier("one", r"^(workers\.)")], true, false, &[]).unwrap();
    assert_eq!(
        shown(&producer, "workers.watchdog_miss"),
        ("watchdog_miss".into(), vec![("one".to_owned(), "workers".to_owned())])
    );
}

#[test]
fn fixed_tags_come_from_the_command_line_first_and_the_first_of_a_name_wins() {
    let fixed = |name: &str, value: &str| TagSpecifier {
        tag_name: name.to_owned(),
        tag_value: Some(TagValue::FixedValue(value.to_owned())),
    };
    let producer =
        TagProducer::build(&[fixed("z", "v1"), fixed("z", "v2")], true, false, &[("cli".into(), "x".into())])
            .unwrap();
    let tags: Vec<_> = producer.fixed().map(|tag| (tag.name, tag.value)).collect();
    assert_eq!(tags, [("cli", "x"), ("z", "v1")]);
}

#[test]
fn a_default_tag_is_overridden_only_if_that_is_allowed() {
    let custom = [specifier("envoy.cluster_name", r"^cluster\.((h)2\.)")];
    let kept = TagProducer::build(&custom, true, false, &[]).unwrap();
    assert_eq!(shown(&kept, "cluster.h2.x").1[0].1, "h2");
    let overridden = TagProducer::build(&custom, true, true, &[]).unwrap();
    assert_eq!(shown(&overridden, "cluster.h2.x").1[0].1, "h");
    assert_eq!(shown(&overridden, "cluster.c.x"), ("cluster.c.x".into(), vec![]));
}

#[test]
fn a_default_tag_can_be_named_without_its_expression() {
    let named = TagSpecifier { tag_name: "envoy.cluster_name".into(), tag_value: None };
    let producer = TagProducer::build(&[named], false, false, &[]).unwrap();
    assert_eq!(shown(&producer, "cluster.c.upstream_rq_200").0, "cluster.upstream_rq_200");
    let unknown = TagSpecifier { tag_name: "a".into(), tag_value: None };
    let errors = TagProducer::build(&[unknown, specifier("b", "(")], false, false, &[]).unwrap_err();
    assert_eq!(errors[0].path, "stats_config.stats_tags[0]");
    assert!(errors[0].reason.contains("no default regex for name: 'a'"), "{}", errors[0].reason);
    assert!(errors[1].reason.starts_with("Invalid regex '('"), "{}", errors[1].reason);
}

#[test]
fn an_expression_that_runs_wild_gives_up() {
    let producer = TagProducer::build(&[specifier("x", r"^(?=(a+)+$)((a+)+)$")], false, false, &[]).unwrap();
    let name = format!("{}b", "a".repeat(200));
    assert_eq!(shown(&producer, &name).0, name);
}
