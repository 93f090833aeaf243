use super::*;

fn rig() -> Rig {
    Rig::new(Variant::StateOfTheWorld)
}

impl Rig {
    fn respond(&mut self, type_url: &TypeUrl, version: &str, nonce: &str, resources: Vec<Any>) {
        let response = DiscoveryResponse {
            version_info: version.into(),
            nonce: nonce.into(),
            type_url: type_url.as_str().into(),
            resources,
            ..DiscoveryResponse::default()
        };
        self.protocol.response(self.now, Response::StateOfTheWorld(Box::new(response))).unwrap();
    }

    fn names(&mut self, type_url: &TypeUrl, version: &str, nonce: &str, names: &[&str]) {
        self.respond(type_url, version, nonce, names.iter().map(|name| any(type_url, name)).collect());
    }

    fn sotw(&mut self) -> DiscoveryRequest {
        match self.request() {
            Some(Request::StateOfTheWorld(request)) => *request,
            other => panic!("no request but {other:?}"),
        }
    }

    /// The next request has to be for these names, with this version and nonce, and no rejection.
    fn sends(&mut self, type_url: &TypeUrl, names: &[&str], version: &str, nonce: &str) {
        let request = self.sotw();
        let got = (request.type_url.as_str(), request.version_info.as_str(), request.response_nonce.as_str());
        assert_eq!(got, (type_url.as_str(), version, nonce));
        assert_eq!(request.resource_names, names, "{type_url}");
        assert_eq!(request.error_detail, None);
    }

    fn sends_nothing(&mut self) {
        assert_eq!(self.request(), None);
    }
}

#[test]
fn the_aggregated_start_of_a_proxy() {
    let mut rig = rig();
    rig.subscribe(&CDS, &[WILDCARD]);
    rig.sends_nothing();
    rig.open();
    rig.sends(&CDS, &[], "", "");
    rig.names(&CDS, "v1", "n1", &["a", "b"]);
    let clusters = rig.update();
    assert!(clusters.full_state);
    assert_eq!((upserts(&clusters), clusters.version.as_str()), (vec!["a", "b"], "v1"));
    // The clusters warm: endpoints are asked for before the clusters are acknowledged.
    rig.subscribe(&EDS, &["b"]);
    rig.subscribe(&EDS, &["a"]);
    rig.sends(&EDS, &["a", "b"], "", "");
    rig.sends_nothing();
    rig.names(&EDS, "e1", "n2", &["a", "b"]);
    assert!(!rig.accept().full_state);
    rig.protocol.verdict(Verdict::accept(&clusters));
    rig.sends(&EDS, &["a", "b"], "e1", "n2");
    rig.sends(&CDS, &[], "v1", "n1");
    rig.sends_nothing();
}

#[test]
fn listeners_pause_routes_so_that_one_request_names_all() {
    let mut rig = rig();
    rig.subscribe(&LDS, &[WILDCARD]);
    rig.open();
    rig.sends(&LDS, &[], "", "");
    rig.names(&LDS, "v1", "n1", &["l1", "l2"]);
    rig.protocol.pause(&RDS);
    rig.subscribe(&RDS, &["r1"]);
    rig.sends_nothing();
    rig.subscribe(&RDS, &["r2"]);
    rig.protocol.resume(&RDS);
    rig.accept();
    rig.sends(&RDS, &["r1", "r2"], "", "");
    rig.sends(&LDS, &[], "v1", "n1");
    rig.sends_nothing();
}

#[test]
fn the_node_goes_first_or_always() {
    for first_only in [true, false] {
        let settings = Settings {
            set_node_on_first_message_only: first_only,
            ..Settings::new(Variant::StateOfTheWorld, node())
        };
        let mut rig = Rig::with(settings);
        rig.subscribe(&CDS, &[WILDCARD]);
        rig.subscribe(&LDS, &[WILDCARD]);
        for _ in 0..2 {
            rig.open();
            assert_eq!(rig.sotw().node, Some(node()));
            assert_eq!(rig.sotw().node, (!first_only).then(node));
            rig.close();
        }
    }
}

#[test]
fn a_response_that_is_rejected_as_a_whole_takes_nothing_away() {
    let mut rig = rig();
    rig.subscribe(&CDS, &[WILDCARD]);
    rig.open();
    rig.sotw();
    rig.names(&CDS, "v1", "n1", &["a", "b"]);
    rig.accept();
    rig.sotw();
    rig.names(&CDS, "v2", "n2", &["a", "bad"]);
    let update = rig.update();
    assert_eq!(update.removed, ["b"]);
    rig.protocol.verdict(Verdict::reject(&update, vec![(String::new(), "constraint".into())]));
    rig.sotw();
    // "b" is still there, so the next response without it has to take it away.
    rig.names(&CDS, "v3", "n3", &["a"]);
    let mut update = rig.accept();
    update.removed.sort();
    assert_eq!(update.removed, ["b", "bad"]);
}

#[test]
fn a_rejection_keeps_the_last_good_version() {
    let mut rig = rig();
    rig.subscribe(&CDS, &[WILDCARD]);
    rig.open();
    rig.sotw();
    rig.names(&CDS, "v1", "n1", &["a"]);
    rig.accept();
    rig.sends(&CDS, &[], "v1", "n1");
    rig.names(&CDS, "v2", "n2", &["a", "bad", "worse"]);
    let update = rig.update();
    let rejected = vec![("bad".into(), "no EDS config".into()), ("worse".into(), "no type".into())];
    rig.protocol.verdict(Verdict::reject(&update, rejected));
    let nack = rig.sotw();
    assert_eq!((nack.version_info.as_str(), nack.response_nonce.as_str()), ("v1", "n2"));
    let status = nack.error_detail.unwrap();
    assert_eq!(status.code, 13);
    assert_eq!(status.message, "Error adding/updating cluster(s) bad: no EDS config, worse: no type");
    rig.sends_nothing();
    // The next stream starts from the last good version.
    rig.close();
    rig.open();
    rig.sends(&CDS, &[], "v1", "");
}

#[test]
fn rejected_listeners_are_told_line_by_line() {
    let mut rig = rig();
    rig.subscribe(&LDS, &[WILDCARD]);
    rig.open();
    rig.sotw();
    rig.names(&LDS, "v1", "n1", &["a", "a"]);
    let update = rig.update();
    assert_eq!(upserts(&update), ["a"]);
    rig.protocol.verdict(Verdict::accept(&update));
    let nack = rig.sotw();
    assert_eq!(nack.version_info, "");
    assert_eq!(
        nack.error_detail.unwrap().message,
        "Error adding/updating listener(s) a: duplicate listener a found\n"
    );
}

#[test]
fn long_messages_are_cut() {
    let mut rig = rig();
    rig.subscribe(&RDS, &["r"]);
    rig.open();
    rig.sotw();
    rig.names(&RDS, "v1", "n1", &["r"]);
    let update = rig.update();
    rig.protocol.verdict(Verdict::reject(&update, vec![(String::new(), "ä".repeat(5000))]));
    let message = rig.sotw().error_detail.unwrap().message;
    assert!(message.ends_with("ä...(truncated)") && message.len() <= 4096 + 14, "{}", message.len());
}

#[test]
fn what_cannot_be_read_is_rejected_at_once() {
    let mut rig = rig();
    rig.subscribe(&CDS, &[WILDCARD]);
    rig.open();
    rig.sotw();
    rig.respond(&CDS, "v1", "n1", vec![any(&CDS, "a"), any(&LDS, "l")]);
    assert!(matches!(rig.protocol.poll_event(), Some(Event::Rejected { type_url, .. }) if type_url == CDS));
    let nack = rig.sotw();
    assert_eq!((nack.version_info.as_str(), nack.response_nonce.as_str()), ("", "n1"));
    assert!(nack.error_detail.unwrap().message.contains("does not match the message-wide type URL"));
}

#[test]
fn missing_means_removed_for_clusters_but_not_for_endpoints() {
    let mut rig = rig();
    rig.subscribe(&CDS, &[WILDCARD]);
    rig.subscribe(&EDS, &["a", "b"]);
    rig.open();
    for (type_url, full_state, removed) in [(CDS, true, vec!["a".to_owned()]), (EDS, false, vec![])] {
        rig.names(&type_url, "1", "x", &["a", "b"]);
        rig.accept();
        rig.names(&type_url, "2", "y", &["b"]);
        let update = rig.accept();
        assert_eq!((update.full_state, &update.removed), (full_state, &removed), "{type_url}");
    }
    rig.names(&CDS, "3", "z", &[]);
    assert_eq!(rig.accept().removed, ["b"]);
}

#[test]
fn an_empty_list_of_clusters_is_told_and_empty_endpoints_are_not() {
    let mut rig = rig();
    rig.subscribe(&CDS, &[WILDCARD]);
    rig.subscribe(&EDS, &["a"]);
    rig.open();
    rig.sotw();
    rig.sotw();
    rig.names(&CDS, "1", "x", &[]);
    assert!(rig.accept().full_state);
    rig.sends(&CDS, &[], "1", "x");
    rig.names(&EDS, "2", "y", &[]);
    rig.no_event();
    rig.sends(&EDS, &["a"], "2", "y");
}

#[test]
fn unwanted_resources_are_left_out() {
    let mut rig = rig();
    rig.subscribe(&EDS, &["a"]);
    rig.open();
    rig.sotw();
    rig.names(&EDS, "1", "x", &["z", "a"]);
    assert_eq!(upserts(&rig.accept()), ["a"]);
    rig.sends(&EDS, &["a"], "1", "x");
    rig.unsubscribe(&EDS, &["a"]);
    rig.sends(&EDS, &[], "1", "x");
    rig.names(&EDS, "2", "y", &["a"]);
    rig.no_event();
    rig.sends(&EDS, &[], "2", "y");
    // Asked for again, nothing is claimed to be held.
    rig.subscribe(&EDS, &["a"]);
    rig.sends(&EDS, &["a"], "", "y");
}

#[test]
fn new_names_carry_the_old_version_and_nonce() {
    let mut rig = rig();
    rig.subscribe(&RDS, &["r1"]);
    rig.open();
    rig.sends(&RDS, &["r1"], "", "");
    rig.names(&RDS, "1", "x", &["r1"]);
    rig.accept();
    rig.sends(&RDS, &["r1"], "1", "x");
    rig.subscribe(&RDS, &["r2"]);
    rig.sends(&RDS, &["r1", "r2"], "1", "x");
    rig.unsubscribe(&RDS, &["r1"]);
    rig.unsubscribe(&RDS, &["unknown"]);
    rig.sends(&RDS, &["r2"], "1", "x");
    rig.protocol.set_interest(rig.now, &RDS, &strings(&["r2", "r3"]), NO_TIMEOUT);
    rig.protocol.set_interest(rig.now, &RDS, &strings(&["r3", "r4"]), NO_TIMEOUT);
    rig.sends(&RDS, &["r3", "r4"], "1", "x");
    rig.protocol.set_interest(rig.now, &RDS, &strings(&["r4", "r3"]), NO_TIMEOUT);
    rig.sends_nothing();
}

#[test]
fn new_names_ride_with_an_answer_that_is_due() {
    let mut rig = rig();
    rig.subscribe(&RDS, &["r1"]);
    rig.open();
    rig.sotw();
    rig.names(&RDS, "1", "x", &["r1"]);
    rig.subscribe(&RDS, &["r2"]);
    rig.sends_nothing();
    rig.accept();
    rig.sends(&RDS, &["r1", "r2"], "1", "x");
    rig.sends_nothing();
    rig.subscribe(&RDS, &["r3"]);
    rig.sends(&RDS, &["r1", "r2", "r3"], "1", "x");
}

#[test]
fn the_wildcard_is_legacy_until_a_name_was_sent() {
    let mut rig = rig();
    rig.subscribe(&CDS, &[WILDCARD]);
    rig.open();
    rig.sends(&CDS, &[], "", "");
    rig.subscribe(&CDS, &["extra"]);
    rig.sends(&CDS, &["*", "extra"], "", "");
    rig.unsubscribe(&CDS, &["extra"]);
    rig.sends(&CDS, &["*"], "", "");
    rig.unsubscribe(&CDS, &[WILDCARD]);
    rig.sends(&CDS, &[], "", "");
    rig.subscribe(&CDS, &[WILDCARD]);
    rig.sends(&CDS, &["*"], "", "");
    rig.close();
    rig.open();
    rig.sends(&CDS, &[], "", "");
    // An empty list would ask for everything once more: the legacy wildcard cannot be taken back.
    rig.unsubscribe(&CDS, &[WILDCARD]);
    rig.sends_nothing();
}

#[test]
fn each_response_is_answered_once_even_if_superseded() {
    let mut rig = rig();
    rig.subscribe(&CDS, &[WILDCARD]);
    rig.open();
    rig.sotw();
    rig.names(&CDS, "1", "x", &["a"]);
    rig.names(&CDS, "2", "y", &["b"]);
    rig.names(&CDS, "2", "y", &["b"]);
    let updates = [rig.update(), rig.update(), rig.update()];
    assert_eq!(updates[1].removed, ["a"]);
    for update in [&updates[1], &updates[0], &updates[2], &updates[0]] {
        rig.protocol.verdict(Verdict::accept(update));
    }
    rig.sends(&CDS, &[], "2", "y");
    rig.sends(&CDS, &[], "1", "x");
    rig.sends(&CDS, &[], "2", "y");
    rig.sends_nothing();
    rig.subscribe(&CDS, &["c"]);
    rig.sends(&CDS, &["*", "c"], "2", "y");
}

#[test]
fn a_verdict_after_the_stream_ended_is_not_sent_but_counts() {
    let mut rig = rig();
    rig.subscribe(&CDS, &[WILDCARD]);
    rig.open();
    rig.sotw();
    rig.names(&CDS, "1", "x", &["a"]);
    let update = rig.update();
    rig.close();
    rig.protocol.verdict(Verdict::accept(&update));
    rig.open();
    rig.sends(&CDS, &[], "1", "");
    rig.sends_nothing();
}

#[test]
fn a_reconnect_asks_for_everything_in_the_old_order() {
    let mut rig = rig();
    for (type_url, name) in [(&CDS, WILDCARD), (&EDS, "e"), (&LDS, WILDCARD), (&RDS, "r")] {
        rig.subscribe(type_url, &[name]);
    }
    rig.open();
    while rig.request().is_some() {}
    rig.names(&EDS, "7", "x", &["e"]);
    rig.update();
    rig.close();
    rig.open();
    rig.sends(&CDS, &[], "", "");
    rig.sends(&EDS, &["e"], "", "");
    rig.sends(&LDS, &[], "", "");
    rig.sends(&RDS, &["r"], "", "");
    rig.sends_nothing();
}

#[test]
fn unknown_types_are_ignored() {
    let mut rig = rig();
    rig.subscribe(&CDS, &[WILDCARD]);
    rig.open();
    rig.sotw();
    rig.names(&LDS, "1", "x", &["a"]);
    rig.names(&TypeUrl::new(""), "1", "x", &["a"]);
    rig.no_event();
    rig.sends_nothing();
}

#[test]
fn fetch_timeouts_are_told_once_per_name() {
    let mut rig = rig();
    let second = Duration::from_secs(1);
    rig.protocol.subscribe(rig.now, &EDS, &strings(&["a", "b"]), second * 15);
    rig.protocol.subscribe(rig.now, &CDS, &strings(&[WILDCARD]), second * 15);
    rig.protocol.subscribe(rig.now, &LDS, &strings(&[WILDCARD]), second * 15);
    rig.protocol.opening();
    rig.protocol.opened();
    rig.protocol.poll_event();
    assert_eq!(rig.protocol.deadline(), Some(rig.now + second * 15));
    rig.names(&EDS, "1", "x", &["a"]);
    rig.accept();
    rig.names(&CDS, "1", "x", &[]);
    rig.accept();
    rig.pass(second * 14);
    rig.no_event();
    rig.pass(second);
    assert_eq!(rig.protocol.poll_event(), Some(Event::FetchTimeout { type_url: EDS, name: "b".into() }));
    assert_eq!(rig.protocol.poll_event(), Some(Event::FetchTimeout { type_url: LDS, name: "*".into() }));
    rig.pass(second * 60);
    rig.no_event();
    assert_eq!(rig.protocol.deadline(), None);
}

#[test]
fn resources_live_as_long_as_heartbeats_come() {
    let mut rig = rig();
    rig.subscribe(&CDS, &[WILDCARD]);
    rig.open();
    rig.sotw();
    let resource = |name: &str, seconds, any| {
        wrap(&Resource { name: name.into(), ttl: ttl(seconds), resource: any, ..Resource::default() })
    };
    let (a, b) = (any(&CDS, "a"), any(&CDS, "b"));
    rig.respond(&CDS, "1", "x", vec![resource("a", 10, Some(a)), resource("b", 10, Some(b)), any(&CDS, "c")]);
    rig.accept();
    rig.pass(Duration::from_secs(9));
    rig.respond(
        &CDS,
        "1",
        "y",
        vec![resource("a", 10, None), resource("b", 1, None), resource("c", 1, None)],
    );
    rig.no_event();
    rig.pass(Duration::from_secs(1));
    let update = rig.update();
    assert_eq!((update.removed.as_slice(), update.full_state), (strings(&["b", "c"]).as_slice(), false));
    rig.protocol.verdict(Verdict::accept(&update));
    rig.pass(Duration::from_secs(9));
    assert_eq!(rig.update().removed, ["a"]);
    let requests = std::iter::from_fn(|| rig.request()).count();
    assert_eq!(requests, 2, "two responses; ended lives are not answered");
}

#[test]
fn requests_respect_the_rate_limit() {
    let settings = Settings {
        rate_limit: Some(RateLimit { max_tokens: 1, fill_rate: 1.0 }),
        ..Settings::new(Variant::StateOfTheWorld, node())
    };
    let mut rig = Rig::with(settings);
    rig.subscribe(&CDS, &[WILDCARD]);
    rig.subscribe(&LDS, &[WILDCARD]);
    rig.open();
    rig.sends(&CDS, &[], "", "");
    rig.sends_nothing();
    let at = rig.protocol.deadline().unwrap();
    rig.pass(at - rig.now);
    rig.sends(&LDS, &[], "", "");
}

#[test]
fn a_server_that_never_gets_a_verdict_is_cut_off() {
    let limits = Limits { max_unanswered: 2, ..Limits::default() };
    let mut rig = Rig::with(Settings { limits, ..Settings::new(Variant::StateOfTheWorld, node()) });
    rig.subscribe(&CDS, &[WILDCARD]);
    rig.open();
    rig.names(&CDS, "1", "a", &["a"]);
    rig.names(&CDS, "1", "a", &["a"]);
    let response = DiscoveryResponse { type_url: CDS.as_str().into(), ..DiscoveryResponse::default() };
    assert!(rig.protocol.response(rig.now, Response::StateOfTheWorld(Box::new(response))).is_err());
}

#[test]
fn a_server_that_reads_no_answers_is_cut_off() {
    let limits = Limits { max_unanswered: 2, ..Limits::default() };
    let mut rig = Rig::with(Settings { limits, ..Settings::new(Variant::StateOfTheWorld, node()) });
    rig.subscribe(&EDS, &["a"]);
    rig.open();
    rig.names(&EDS, "1", "a", &[]);
    rig.names(&EDS, "1", "a", &[]);
    let response = DiscoveryResponse { type_url: EDS.as_str().into(), ..DiscoveryResponse::default() };
    assert!(rig.protocol.response(rig.now, Response::StateOfTheWorld(Box::new(response))).is_err());
}

#[test]
fn the_server_is_named_when_its_name_changes() {
    let mut rig = rig();
    rig.open();
    for (identifier, told) in [("one", true), ("one", false), ("two", true)] {
        let response = DiscoveryResponse {
            control_plane: Some(ControlPlane { identifier: identifier.into() }),
            ..DiscoveryResponse::default()
        };
        rig.protocol.response(rig.now, Response::StateOfTheWorld(Box::new(response))).unwrap();
        assert_eq!(rig.protocol.poll_event(), told.then(|| Event::ControlPlaneIdentifier(identifier.into())));
    }
}
