//! Bodies of which a filter lets only parts pass.

use super::*;

#[test]
fn a_request_goes_in_parts() {
    on_both_sides(async || {
        let rig = Rig::start("10s").await;
        let mut client = rig.send(&post("part", "hello")).await;
        rig.gate.until(|gate| gate.waiting.lock().unwrap().is_some()).await;
        assert_eq!(rig.gate.seen(), ["head false", "held hello", "data h false"], "the rest waits");
        rig.gate.open();
        assert_eq!(body_of(&rig.answer(&mut client).await), ("200", "hello"));
        let passed: Vec<_> = rig.gate.seen().into_iter().filter(|seen| seen.starts_with("data ")).collect();
        let last = if passed.len() == 6 { "data  true" } else { "data o true" };
        assert_eq!(passed.last().unwrap(), last, "{passed:?}");
    });
}

#[test]
fn a_response_does_not_wait_for_the_rest_of_its_request() {
    on_both_sides(async || {
        let rig = Rig::start_with(&[], early).await;
        let mut client = rig.send(&post("part", "hello")).await;
        assert_eq!(body_of(&rig.answer(&mut client).await), ("200", "early"));
    });
}

#[test]
fn a_timeout_ends_the_wait_of_a_rest() {
    on_both_sides(async || {
        let rig = Rig::start("0.05s").await;
        assert_eq!(body_of(&rig.ask(&post("part", "hello")).await).0, "504", "the client sent all of it");
        assert_eq!(rig.gate.seen().last().unwrap(), "over, stream_idle_timeout");
    });
}

/// The request that `send` writes in two, when the rest of the first waits.
async fn in_two(rig: &Rig, body: &str) -> TcpStream {
    let request = post("part", body);
    let (first, second) = request.split_at(request.len() - body.len() / 2);
    let mut client = rig.send(first).await;
    rig.gate.until(|gate| gate.waiting.lock().unwrap().is_some()).await;
    client.write_all(second.as_bytes()).await.unwrap();
    client
}

#[test]
fn what_comes_behind_a_rest_keeps_its_place() {
    on_both_sides(async || {
        for length in [4, 60, 64, 65, 66, 2000] {
            let body: String = ('a'..='z').cycle().take(length).collect();
            let rig = Rig::start("10s").await;
            let mut client = in_two(&rig, &body).await;
            rig.gate.open();
            assert_eq!(body_of(&rig.answer(&mut client).await), ("200", &*body), "{length}");
        }
    });
}

/// The timeouts of a client are over when it has sent everything, however long that waits here; those of the host are not begun.
#[test]
fn a_request_that_waits_is_complete() {
    on_worker(async || {
        let short = [("stream_idle_timeout", "request_timeout: 0.05s\n          stream_idle_timeout")];
        let rig = Rig::start_with(&short, echo).await;
        let request = post("part", "hello").replacen("/", "/never", 1);
        let mut client = rig.send(&request).await;
        rig.gate.until(|gate| gate.waiting.lock().unwrap().is_some()).await;
        let early = tokio::time::timeout(Duration::from_millis(150), client.readable()).await;
        assert!(early.is_err(), "no deadline was anybody's");
        rig.gate.open();
        let answer = rig.answer(&mut client).await;
        assert_eq!(body_of(&answer), ("504", "upstream request timeout"));
    });
}

#[test]
fn a_client_that_leaves_while_more_waits_than_may_is_noticed() {
    on_worker(async || {
        let rig = Rig::start("10s").await;
        let client = in_two(&rig, &"x".repeat(200)).await;
        drop(client);
        rig.gate.until(|gate| gate.seen().last().is_some_and(|seen| seen.starts_with("over"))).await;
        assert_eq!(rig.gate.seen().last().unwrap(), "over, downstream_remote_disconnect");
    });
}

#[test]
fn responses_go_in_parts() {
    on_both_sides(async || a_parted_response(&post("response part", "direct")).await);
}

#[test]
fn local_replies_go_in_parts() {
    on_worker(async || a_parted_response(&get("/direct", "response part")).await);
}

async fn a_parted_response(request: &str) {
    let rig = Rig::start("10s").await;
    let mut client = rig.send(request).await;
    let mut early = Vec::new();
    while !early.ends_with(b"\r\n\r\nd") {
        client.read_buf(&mut early).await.unwrap();
    }
    rig.gate.until(|gate| gate.waiting.lock().unwrap().is_some()).await;
    rig.gate.open();
    assert_eq!(rig.answer(&mut client).await, "irect");
}
