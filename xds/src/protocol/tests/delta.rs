use super::*;

fn rig() -> Rig {
    Rig::new(Variant::Delta)
}

impl Rig {
    fn changes(&mut self, type_url: &TypeUrl, nonce: &str, resources: &[(&str, &str)], removed: &[&str]) {
        let resource = |(name, version): &(&str, &str)| Resource {
            name: (*name).to_owned(),
            version: (*version).to_owned(),
            resource: Some(any(type_url, name)),
            ..Resource::default()
        };
        self.respond_delta(type_url, nonce, resources.iter().map(resource).collect(), removed);
    }

    fn respond_delta(&mut self, type_url: &TypeUrl, nonce: &str, resources: Vec<Resource>, removed: &[&str]) {
        let response = DeltaDiscoveryResponse {
            system_version_info: "sys".into(),
            nonce: nonce.into(),
            type_url: type_url.as_str().into(),
            resources,
            removed_resources: strings(removed),
            ..DeltaDiscoveryResponse::default()
        };
        self.protocol.response(self.now, Response::Delta(Box::new(response))).unwrap();
    }

    fn delta(&mut self) -> DeltaDiscoveryRequest {
        match self.request() {
            Some(Request::Delta(request)) => *request,
            other => panic!("no request but {other:?}"),
        }
    }

    /// The next request has to change the subscription, and nothing else.
    fn tells(
        &mut self,
        type_url: &TypeUrl,
        subscribe: &[&str],
        unsubscribe: &[&str],
    ) -> Vec<(String, String)> {
        let request = self.delta();
        assert_eq!(request.type_url, type_url.as_str());
        assert_eq!(request.resource_names_subscribe, subscribe, "{type_url}");
        assert_eq!(request.resource_names_unsubscribe, unsubscribe, "{type_url}");
        assert_eq!((request.response_nonce.as_str(), request.error_detail), ("", None));
        let mut held: Vec<_> = request.initial_resource_versions.into_iter().collect();
        held.sort();
        held
    }

    /// The next request has to answer, and nothing else; the message of a rejection comes back.
    fn answers(&mut self, type_url: &TypeUrl, nonce: &str) -> Option<String> {
        let request = self.delta();
        assert_eq!((request.type_url.as_str(), request.response_nonce.as_str()), (type_url.as_str(), nonce));
        assert!(request.resource_names_subscribe.is_empty() && request.resource_names_unsubscribe.is_empty());
        assert!(request.initial_resource_versions.is_empty());
        request.error_detail.map(|status| {
            assert_eq!(status.code, 13);
            status.message
        })
    }
}

fn pair(name: &str, version: &str) -> (String, String) {
    (name.to_owned(), version.to_owned())
}

#[test]
fn the_aggregated_start_of_a_proxy() {
    let mut rig = rig();
    rig.subscribe(&CDS, &[WILDCARD]);
    rig.open();
    assert_eq!(rig.tells(&CDS, &[], &[]), []);
    rig.changes(&CDS, "n1", &[("a", "1"), ("b", "1")], &[]);
    let clusters = rig.update();
    assert_eq!(
        (upserts(&clusters), clusters.full_state, clusters.version.as_str()),
        (vec!["a", "b"], false, "sys")
    );
    rig.subscribe(&EDS, &["a", "b"]);
    rig.tells(&EDS, &["a", "b"], &[]);
    assert_eq!(rig.request(), None);
    rig.changes(&EDS, "n2", &[("a", "1"), ("b", "1")], &[]);
    rig.accept();
    rig.protocol.verdict(Verdict::accept(&clusters));
    assert_eq!(rig.answers(&EDS, "n2"), None);
    assert_eq!(rig.answers(&CDS, "n1"), None);
    // A change of interest does not wait for anything.
    rig.changes(&EDS, "n3", &[("a", "2")], &[]);
    let endpoints = rig.update();
    rig.subscribe(&EDS, &["c"]);
    rig.unsubscribe(&EDS, &["b"]);
    rig.tells(&EDS, &["c"], &["b"]);
    rig.protocol.verdict(Verdict::accept(&endpoints));
    assert_eq!(rig.answers(&EDS, "n3"), None);
    assert_eq!(rig.request(), None);
}

#[test]
fn a_reconnect_tells_what_is_held() {
    let mut rig = rig();
    rig.subscribe(&CDS, &[WILDCARD]);
    rig.subscribe(&EDS, &["a", "b", "c"]);
    rig.open();
    rig.changes(&CDS, "n1", &[("x", "1"), ("y", "1")], &[]);
    rig.accept();
    rig.changes(&CDS, "n2", &[("y", "2"), ("z", "2")], &["x"]);
    assert_eq!(rig.accept().removed, ["x"]);
    rig.changes(&EDS, "n3", &[("a", "1"), ("b", "1")], &[]);
    rig.accept();
    rig.changes(&EDS, "n4", &[("a", "2"), ("b", "2")], &[]);
    let update = rig.update();
    rig.protocol.verdict(Verdict::reject(&update, vec![("a".into(), "bad".into())]));
    rig.close();
    rig.open();
    assert_eq!(rig.tells(&CDS, &[], &[]), [pair("y", "2"), pair("z", "2")]);
    // Of the rejected one, what was accepted before is held; so what was rejected comes again.
    assert_eq!(rig.tells(&EDS, &["a", "b", "c"], &[]), [pair("a", "1"), pair("b", "2")]);
    assert_eq!(rig.request(), None);
}

#[test]
fn what_was_accepted_stays_accepted_when_what_came_after_is_rejected() {
    let mut rig = rig();
    rig.subscribe(&EDS, &["a", "b"]);
    rig.open();
    for (nonce, version) in [("n1", "1"), ("n2", "2"), ("n3", "3")] {
        rig.changes(&EDS, nonce, &[("a", version), ("b", version)], &[]);
    }
    let [first, second, third] = [rig.update(), rig.update(), rig.update()];
    rig.protocol.verdict(Verdict::accept(&second));
    rig.protocol.verdict(Verdict::accept(&first));
    rig.protocol.verdict(Verdict::reject(&third, vec![(String::new(), "bad".into())]));
    rig.close();
    rig.open();
    assert_eq!(rig.tells(&EDS, &["a", "b"], &[]), [pair("a", "2"), pair("b", "2")]);
}

#[test]
fn what_is_brought_back_does_not_count_as_held_before() {
    let mut rig = rig();
    rig.subscribe(&EDS, &["a", "b"]);
    rig.open();
    rig.changes(&EDS, "n1", &[("a", "1"), ("b", "1")], &[]);
    rig.changes(&EDS, "n2", &[], &["a", "b"]);
    rig.changes(&EDS, "n3", &[("a", "3")], &[]);
    let [first, removal, again] = [rig.update(), rig.update(), rig.update()];
    rig.protocol.verdict(Verdict::accept(&first));
    rig.protocol.verdict(Verdict::reject(&again, vec![(String::new(), "bad".into())]));
    rig.close();
    rig.open();
    // whether it is gone has not been said: nothing is claimed, and it comes again
    assert_eq!(rig.tells(&EDS, &["a", "b"], &[]), []);
    rig.protocol.verdict(Verdict::reject(&removal, vec![(String::new(), "bad".into())]));
    rig.close();
    rig.open();
    assert_eq!(rig.tells(&EDS, &["a", "b"], &[]), [pair("a", "1"), pair("b", "1")]);
}

#[test]
fn what_two_removals_took_away_is_back_when_both_are_rejected() {
    for second_accepted in [false, true] {
        let mut rig = rig();
        rig.subscribe(&EDS, &["a"]);
        rig.open();
        rig.changes(&EDS, "n1", &[("a", "1")], &[]);
        rig.accept();
        rig.changes(&EDS, "n2", &[], &["a"]);
        rig.changes(&EDS, "n3", &[], &["a"]);
        let [first, second] = [rig.update(), rig.update()];
        let bad = vec![(String::new(), "bad".to_owned())];
        rig.protocol.verdict(Verdict::reject(&first, bad.clone()));
        rig.protocol.verdict(Verdict::reject(&second, if second_accepted { Vec::new() } else { bad }));
        rig.close();
        rig.open();
        let held = if second_accepted { vec![] } else { vec![pair("a", "1")] };
        assert_eq!(rig.tells(&EDS, &["a"], &[]), held);
    }
}

#[test]
fn what_was_not_judged_is_not_held() {
    let mut rig = rig();
    rig.subscribe(&EDS, &["a"]);
    rig.open();
    rig.changes(&EDS, "n1", &[("a", "1")], &[]);
    let update = rig.update();
    rig.close();
    rig.open();
    assert_eq!(rig.tells(&EDS, &["a"], &[]), []);
    rig.protocol.verdict(Verdict::accept(&update));
    assert_eq!(rig.request(), None, "the answer belongs to the old stream");
    rig.close();
    rig.open();
    assert_eq!(rig.tells(&EDS, &["a"], &[]), [pair("a", "1")]);
}

#[test]
fn a_rejection_names_its_resources() {
    let mut rig = rig();
    rig.subscribe(&CDS, &[WILDCARD]);
    rig.open();
    rig.delta();
    rig.changes(&CDS, "n1", &[("good", "1"), ("bad", "1")], &[]);
    let update = rig.update();
    rig.protocol.verdict(Verdict::reject(&update, vec![("bad".into(), "why".into())]));
    assert_eq!(rig.answers(&CDS, "n1").as_deref(), Some("Error adding/updating cluster(s) bad: why"));
    rig.changes(&CDS, "n2", &[("a", "1"), ("a", "1")], &[]);
    assert!(matches!(rig.protocol.poll_event(), Some(Event::Rejected { .. })));
    assert_eq!(
        rig.answers(&CDS, "n2").as_deref(),
        Some("duplicate name a found among added/updated resources")
    );
    assert_eq!(rig.request(), None);
}

#[test]
fn wildcards_can_be_taken_back() {
    let mut rig = rig();
    rig.subscribe(&CDS, &[WILDCARD]);
    rig.open();
    rig.tells(&CDS, &[], &[]);
    rig.subscribe(&CDS, &["a"]);
    rig.tells(&CDS, &["a"], &[]);
    rig.changes(&CDS, "n1", &[("a", "1"), ("b", "1")], &[]);
    rig.accept();
    rig.answers(&CDS, "n1");
    rig.unsubscribe(&CDS, &[WILDCARD]);
    rig.tells(&CDS, &[], &["*"]);
    rig.changes(&CDS, "n2", &[("b", "2")], &["c"]);
    rig.no_event();
    assert_eq!(rig.answers(&CDS, "n2"), None);
    rig.close();
    rig.open();
    assert_eq!(rig.tells(&CDS, &["a"], &[]), [pair("a", "1")]);
    rig.subscribe(&CDS, &[WILDCARD]);
    rig.tells(&CDS, &["*"], &[]);
    rig.close();
    rig.open();
    assert_eq!(rig.tells(&CDS, &["*", "a"], &[]), [pair("a", "1")]);
}

#[test]
fn dropped_and_wanted_again_is_asked_for_again() {
    let mut rig = rig();
    rig.subscribe(&EDS, &["a", "b"]);
    rig.open();
    rig.tells(&EDS, &["a", "b"], &[]);
    rig.unsubscribe(&EDS, &["a"]);
    rig.subscribe(&EDS, &["a"]);
    rig.tells(&EDS, &["a"], &[]);
    rig.subscribe(&EDS, &["c"]);
    rig.unsubscribe(&EDS, &["c"]);
    assert_eq!(rig.request(), None, "the server never heard of it");
}

#[test]
fn removals_answer_who_waits() {
    let mut rig = rig();
    rig.open();
    rig.protocol.subscribe(rig.now, &EDS, &strings(&["a", "b"]), Duration::from_secs(5));
    rig.changes(&EDS, "n1", &[], &["a", "unknown"]);
    assert_eq!(rig.accept().removed, ["a"]);
    rig.pass(Duration::from_secs(5));
    assert_eq!(rig.protocol.poll_event(), Some(Event::FetchTimeout { type_url: EDS, name: "b".into() }));
    rig.no_event();
}

#[test]
fn lives_end_and_are_forgotten() {
    let mut rig = rig();
    rig.subscribe(&EDS, &["a"]);
    rig.open();
    rig.delta();
    let resource = |any| Resource {
        name: "a".into(),
        version: "1".into(),
        ttl: ttl(10),
        resource: any,
        ..Default::default()
    };
    rig.respond_delta(&EDS, "n1", vec![resource(Some(any(&EDS, "a")))], &[]);
    rig.accept();
    rig.answers(&EDS, "n1");
    rig.pass(Duration::from_secs(9));
    rig.respond_delta(&EDS, "n2", vec![resource(None)], &[]);
    rig.no_event();
    rig.answers(&EDS, "n2");
    rig.pass(Duration::from_secs(9));
    rig.no_event();
    rig.pass(Duration::from_secs(1));
    assert_eq!(rig.update().removed, ["a"]);
    rig.close();
    rig.open();
    assert_eq!(rig.tells(&EDS, &["a"], &[]), []);
}
