//! The end of a client's HTTP/2 connection: first a GOAWAY that only announces it, later the one that names the last
//! stream (RFC 9113, section 6.8). What was begun is answered; what comes too late does not reach the upstream.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use integration::config::{HttpListener, bootstrap, cluster, fill, port};
use integration::expect::{SOON, within};
use integration::process::{Binary, Proxy};
use integration::upstream::Upstream;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::session::Session;

/// The last stream of the GOAWAY that announces.
const ANY: u32 = 0x7fff_ffff;
/// RFC 9113, section 7
const REFUSED_STREAM: u32 = 7;

async fn start(options: &str, extra: &[&str]) -> Result<(Proxy, Upstream)> {
    let upstream = Upstream::start().await?;
    let listener = HttpListener::to_up("http").options(options).yaml();
    let yaml = bootstrap(&[listener], &[cluster("up", "up", "")], "");
    let yaml = fill(&yaml, [("up", port(upstream.addr()))]);
    Ok((Proxy::start_with(&Binary::subject()?, &yaml, extra).await?, upstream))
}

/// The two steps, with stream 1 in flight all the while. The stream `late` comes after the announcement, the next one after
/// the last word.
async fn ends_in_two_steps(session: &mut Session, upstream: &Upstream, late: u32) -> Result<()> {
    session.until("the announcement", |session| !session.goaways.is_empty()).await?;
    ensure!(session.goaways == [(ANY, 0)], "announced with {:?}", session.goaways);
    session.begin(late, true).await?;
    session.answered(late).await?;
    ensure!(session.goaways.len() == 1, "the last word came before the PING was answered or time was up");
    session.pong().await?;
    session.until("the last word", |session| session.goaways.len() > 1).await?;
    ensure!(session.goaways == [(ANY, 0), (late, 0)], "ended with {:?}", session.goaways);
    session.begin(late + 2, true).await?;
    session.end(1).await?;
    session.answered(1).await?;
    session.closed().await?;
    let mut lines: Vec<String> = upstream.received().into_iter().map(|request| request.line).collect();
    lines.sort();
    let mut expected: Vec<String> =
        (3..=late).step_by(2).map(|stream| format!("GET /{stream} HTTP/1.1")).collect();
    expected.push("POST /1 HTTP/1.1".to_owned());
    ensure!(lines == expected, "{lines:?}");
    Ok(())
}

#[tokio::test]
async fn an_old_connection_ends_in_two_steps() -> Result<()> {
    let options = "common_http_protocol_options: {max_connection_duration: 0.3s}\ndrain_timeout: 5s";
    let (proxy, upstream) = start(options, &[]).await?;
    let mut session = Session::connect(proxy.listener("http")?).await?;
    session.begin(1, false).await?;
    ends_in_two_steps(&mut session, &upstream, 3).await?;
    let reached = proxy.admin().stat("http.http.downstream_cx_max_duration_reached").await?;
    ensure!(reached == 1, "{reached} connections were too old");
    Ok(())
}

#[tokio::test]
async fn a_connection_with_enough_requests_ends_in_two_steps() -> Result<()> {
    let options = "common_http_protocol_options: {max_requests_per_connection: 2}\ndrain_timeout: 5s";
    let (proxy, upstream) = start(options, &[]).await?;
    let mut session = Session::connect(proxy.listener("http")?).await?;
    session.begin(1, false).await?;
    session.begin(3, true).await?;
    session.answered(3).await?;
    ends_in_two_steps(&mut session, &upstream, 5).await?;
    let reached = proxy.admin().stat("http.http.downstream_cx_max_requests_reached").await?;
    ensure!(reached > 0, "no connection had enough requests");
    Ok(())
}

#[tokio::test]
async fn a_drained_connection_ends_in_two_steps() -> Result<()> {
    let words = ["--drain-time-s", "600", "--drain-strategy", "immediate"];
    let (proxy, upstream) = start("drain_timeout: 5s", &words).await?;
    let mut session = Session::connect(proxy.listener("http")?).await?;
    session.begin(1, false).await?;
    session.begin(3, true).await?;
    session.answered(3).await?;
    ensure!(session.goaways.is_empty(), "{:?} before the drain", session.goaways);
    let answer = proxy.admin().request("POST", "/drain_listeners?graceful").await?;
    ensure!(answer.status == 200, "{answer:?}");
    session.begin(5, true).await?;
    session.answered(5).await?;
    ends_in_two_steps(&mut session, &upstream, 7).await
}

/// Sends a request for each of these paths on as many connections as it takes; a path is tried again only where the server
/// said that its stream was not worked on.
async fn fetch_all(addr: SocketAddr, paths: Arc<Mutex<Vec<String>>>) -> Result<usize> {
    let next = || paths.lock().ok()?.pop();
    let mut connections = 0;
    let mut path = next();
    while path.is_some() {
        let stream = within("connecting", SOON, TcpStream::connect(addr)).await??;
        stream.set_nodelay(true)?;
        let (send, connection) = h2::client::handshake(stream).await?;
        let driving = tokio::spawn(connection);
        connections += 1;
        let mut answered = 0;
        while let Some(current) = &path {
            // not ready: the server takes no more streams here
            let Ok(mut send) = within("a free stream", SOON, send.clone().ready()).await? else { break };
            let request = http::Request::get(format!("http://test{current}")).body(())?;
            let (response, _) = send.send_request(request, true)?;
            match within("an answer", SOON, response).await? {
                Ok(response) => {
                    ensure!(response.status() == 200, "{current}: {}", response.status());
                    let mut body = response.into_body();
                    let mut length = 0;
                    while let Some(piece) = body.data().await {
                        let piece: Bytes = piece.with_context(|| format!("the body of {current}"))?;
                        length += piece.len();
                    }
                    ensure!(length == 5, "{current}: {length} bytes");
                    answered += 1;
                    path = next();
                }
                Err(error) => {
                    let untouched = error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR)
                        || error.reason() == Some(h2::Reason::REFUSED_STREAM);
                    ensure!(untouched, "{current}: {error}");
                    break;
                }
            }
        }
        ensure!(answered > 0, "a connection that answered nothing");
        drop(send);
        within("the end of a connection", SOON, driving).await??.context("the end of a connection")?;
    }
    Ok(connections)
}

#[tokio::test]
async fn no_request_is_lost_or_sent_twice_when_connections_end_under_load() -> Result<()> {
    let options = "common_http_protocol_options: {max_requests_per_connection: 7}\ndrain_timeout: 0.05s";
    let (proxy, upstream) = start(options, &[]).await?;
    let addr = proxy.listener("http")?;
    let paths: Vec<String> = (0..400).map(|number| format!("/request/{number}")).collect();
    let shared = Arc::new(Mutex::new(paths.clone()));
    let mut clients = JoinSet::new();
    for _ in 0..4 {
        clients.spawn(fetch_all(addr, shared.clone()));
    }
    let mut connections = 0;
    while let Some(done) = clients.join_next().await {
        connections += done??;
    }
    ensure!(connections > 4, "no connection had an end");
    let mut seen = BTreeMap::<String, usize>::new();
    for request in upstream.received() {
        *seen.entry(request.line).or_default() += 1;
    }
    let expected = paths.into_iter().map(|path| (format!("GET {path} HTTP/1.1"), 1)).collect();
    ensure!(seen == expected, "{:?}", seen.iter().filter(|(_, count)| **count != 1).collect::<Vec<_>>());
    Ok(())
}

/// A client that answers no PING cannot keep its connection by opening stream after stream.
#[tokio::test]
async fn a_connection_ends_although_its_client_answers_no_ping() -> Result<()> {
    let options = "common_http_protocol_options: {max_connection_duration: 0.1s}\ndrain_timeout: 1s";
    let (proxy, _upstream) = start(options, &[]).await?;
    let mut session = Session::connect(proxy.listener("http")?).await?;
    session.begin(1, false).await?;
    session.until("the announcement", |session| !session.goaways.is_empty()).await?;
    let refusal = async {
        let mut stream = 3;
        loop {
            session.begin(stream, true).await?;
            let settled = |session: &Session| session.goaways.len() > 1 || session.is_settled(stream);
            session.until("an answer or a refusal", settled).await?;
            if session.goaways.len() > 1 || session.resets.contains(&(stream, REFUSED_STREAM)) {
                return anyhow::Ok(());
            }
            session.answered(stream).await?;
            stream += 2;
        }
    };
    within("the first stream that is not taken", SOON, refusal).await??;
    session.end(1).await?;
    session.answered(1).await?;
    session.closed().await
}

/// How long a connection takes from its first GOAWAY to its end, if its client answers no PING.
async fn time_to_the_end(addr: SocketAddr) -> Result<Duration> {
    let mut session = Session::connect(addr).await?;
    session.begin(1, true).await?;
    session.answered(1).await?;
    session.until("the announcement", |session| !session.goaways.is_empty()).await?;
    let since = Instant::now();
    session.closed().await?;
    Ok(since.elapsed())
}

/// `drain_timeout_jitter`: what is drained together does not come back all at once.
#[tokio::test]
async fn connections_that_drain_together_end_at_different_times() -> Result<()> {
    let options = "common_http_protocol_options: {max_connection_duration: 0.1s}\ndrain_timeout: 0.4s\ndrain_timeout_jitter: {value: 100}";
    let (proxy, _upstream) = start(options, &[]).await?;
    let addr = proxy.listener("http")?;
    let mut clients = JoinSet::new();
    for _ in 0..24 {
        clients.spawn(time_to_the_end(addr));
    }
    let mut times = Vec::new();
    while let Some(time) = clients.join_next().await {
        times.push(time??);
    }
    times.sort();
    let [first, last] = [times[0], times[times.len() - 1]];
    // The frame that announces may arrive a little late, but not the end too early. That no connection takes half of the
    // jitter has odds of one in sixteen million.
    ensure!(first >= Duration::from_millis(300), "{times:?}");
    ensure!(last >= Duration::from_millis(600) && last - first >= Duration::from_millis(100), "{times:?}");
    Ok(())
}
