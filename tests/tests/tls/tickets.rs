//! Tickets of sessions under keys of one's own: who shares keys resumes the sessions of the others, as with Envoy.

use std::sync::Arc;

use integration::config::{HttpListener, bootstrap, cluster, fill, port};
use integration::control_plane::{bootstrap_of, management_cluster, socket};
use integration::expect::{SOON, eventually};
use integration::process::{Binary, Proxy};
use integration::tls::{Authority, ClientOptions, Outcome, Session, Wanted, downstream, inline, talk};
use integration::upstream::Upstream;
use rustls::ClientConfig;
use rustls::version::{TLS12, TLS13};
use xds::fake::ManagementServer;

use crate::secrets::{SDS, secret, source_of};
use crate::{GET, both};

/// A key as a data source.
fn key(letter: char) -> String {
    format!("{{inline_string: \"{}\"}}", letter.to_string().repeat(80))
}

fn keys(letters: &str) -> String {
    let keys: Vec<String> = letters.chars().map(key).collect();
    format!("{{keys: [{}]}}", keys.join(", "))
}

/// Two listeners with this in their context, of which the second asks for certificates.
fn listeners(root: &Authority, context: &str) -> Vec<String> {
    let identity = root.issue(&Wanted::default()).unwrap();
    let common = format!("tls_certificates: [{}]\n", identity.inline());
    let strict = format!("{common}validation_context: {{trusted_ca: {}}}\n", inline(&root.pem));
    let required = format!("{context}require_client_certificate: true\n");
    vec![
        HttpListener::to_up("open").chain(&downstream(&common, context)).yaml(),
        HttpListener::to_up("strict").chain(&downstream(&strict, &required)).yaml(),
    ]
}

async fn start(binary: &Binary, root: &Authority, context: &str) -> (Proxy, Upstream) {
    let upstream = Upstream::start().await.unwrap();
    let up = fill(&cluster("up", "up", ""), [("up", port(upstream.addr()))]);
    (Proxy::start(binary, &bootstrap(&listeners(root, context), &[up], "")).await.unwrap(), upstream)
}

async fn get(proxy: &Proxy, listener: &str, config: &Arc<ClientConfig>) -> Outcome {
    let (address, config) = (proxy.listener(listener).unwrap(), config.clone());
    let talking =
        tokio::task::spawn_blocking(move || talk(address, &config, "a.test", GET.as_bytes(), "\r\n\r\n"));
    talking.await.unwrap().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_shares_keys_resumes_sessions_as_with_envoy() {
    let root = Authority::new("root").unwrap();
    let mut told = Vec::new();
    for binary in both() {
        let context = |letters| format!("session_ticket_keys: {}\n", keys(letters));
        let (one, _one) = start(&binary, &root, &context("ab")).await;
        let (two, _two) = start(&binary, &root, &context("ba")).await;
        let (three, _three) = start(&binary, &root, &context("c")).await;
        for version in [&TLS12, &TLS13] {
            let config =
                || ClientOptions { versions: vec![version], ..ClientOptions::default() }.config().unwrap();
            let client = config();
            let mut resumed = Vec::new();
            for (proxy, listener) in
                [(&one, "open"), (&one, "open"), (&two, "open"), (&three, "open"), (&three, "open")]
            {
                let outcome = get(proxy, listener, &client).await;
                assert_eq!(outcome.handshake, "ok");
                resumed.push(outcome.resumed);
            }
            // What one listener let in, the other, which asks for more, does not.
            let client = config();
            resumed.push(get(&one, "open", &client).await.resumed);
            let outcome = get(&one, "strict", &client).await;
            assert_ne!(outcome.handshake, "ok", "{outcome:?}");
            resumed.push(outcome.resumed);
            told.push(resumed);
        }
        let short = "session_ticket_keys: {keys: [{inline_string: short}]}\n";
        let verdict = binary.validate(&bootstrap(&listeners(&root, short), &[], "")).unwrap();
        let reason = "Incorrect TLS session ticket key length. Length 5, expected length 80.";
        assert!(!verdict.accepted && verdict.text.contains(reason), "{}", verdict.text);
    }
    assert_eq!(told[..2], told[2..]);
    assert_eq!(told[0], [false, true, true, false, true, false, false]);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_tickets_are_handed_out_as_to_envoy() {
    let root = Authority::new("root").unwrap();
    for binary in both() {
        let upstream = Upstream::start().await.unwrap();
        let management = ManagementServer::start().await.unwrap();
        let hand_out = |version: &str, letters: &str| {
            let yaml = format!("{{name: tickets, session_ticket_keys: {}}}", keys(letters));
            management.set(&SDS, version, [secret(&yaml)]);
        };
        hand_out("1", "a");
        let context =
            format!("session_ticket_keys_sds_secret_config: {{name: tickets{}}}\n", source_of("GRPC", ""));
        let up = fill(&cluster("up", "up", ""), [("up", port(upstream.addr()))]);
        let clusters = management_cluster(&socket(management.address())) + &up;
        let config = bootstrap_of("", &listeners(&root, &context), &clusters, "GRPC");
        let proxy = Proxy::start(&binary, &config).await.unwrap();
        let updates = async |count: i64| {
            eventually("the keys", SOON, async || {
                (proxy.admin().stat("sds.tickets.update_success").await.ok()? == count).then_some(())
            })
            .await
            .unwrap();
        };
        updates(1).await;
        let client = ClientOptions::default().config().unwrap();
        assert!(!get(&proxy, "open", &client).await.resumed);
        assert!(get(&proxy, "open", &client).await.resumed);
        // A new key that seals; the old one still opens.
        hand_out("2", "ba");
        updates(2).await;
        assert!(get(&proxy, "open", &client).await.resumed);
        hand_out("3", "c");
        updates(3).await;
        assert!(!get(&proxy, "open", &client).await.resumed);
        let dump = proxy.admin().get("/config_dump").await.unwrap();
        assert!(!dump.contains("cccccccc"), "{dump}");
    }
}

/// Connections that each of two workers has.
async fn on_workers(proxy: &Proxy) -> Option<[i64; 2]> {
    let stats = proxy.admin().stats(r"^listener\.fair\.worker_.\.downstream_cx_active$").await.ok()?;
    Some([0, 1].map(|worker| {
        stats.get(&format!("listener.fair.worker_{worker}.downstream_cx_active")).copied().unwrap_or(0)
    }))
}

/// A connection that has served a request, and stays.
async fn held(proxy: &Proxy, config: &Arc<ClientConfig>) -> Session {
    let (address, config) = (proxy.listener("fair").unwrap(), config.clone());
    let talking = tokio::task::spawn_blocking(move || {
        let mut session = Session::over(address, &config, "a.test")?;
        let status = session.request("GET / HTTP/1.1\r\nhost: a.test\r\n\r\n")?;
        anyhow::ensure!(status == "HTTP/1.1 200 OK", "{status}");
        Ok(session)
    });
    talking.await.unwrap().unwrap()
}

/// What one worker sealed the other opens, whether its key was given or made up. Connections are balanced, so while there are two
/// each worker has one; nothing but tickets can resume a session.
#[tokio::test(flavor = "multi_thread")]
async fn workers_resume_each_others_sessions() {
    const BALANCED: &str = "stat_prefix: fair\nconnection_balance_config: {exact_balance: {}}\n";
    let root = Authority::new("root").unwrap();
    let common = format!("tls_certificates: [{}]\n", root.issue(&Wanted::default()).unwrap().inline());
    for binary in both() {
        for own in ["", &format!("session_ticket_keys: {}\n", keys("ab"))] {
            let context = format!("disable_stateful_session_resumption: true\n{own}");
            let chain = downstream(&common, &context);
            let listener = HttpListener::to_up("fair").listener(BALANCED).chain(&chain).yaml();
            let upstream = Upstream::start().await.unwrap();
            let up = fill(&cluster("up", "up", ""), [("up", port(upstream.addr()))]);
            let config = bootstrap(&[listener], &[up], "");
            let proxy = Proxy::start_with(&binary, &config, &["--concurrency", "2"]).await.unwrap();
            let are = async |what: &str, is: fn([i64; 2]) -> bool| {
                let counts = eventually(what, SOON, async || on_workers(&proxy).await.filter(|now| is(*now)));
                counts.await.unwrap();
            };
            for version in [&TLS12, &TLS13] {
                let client = ClientOptions { versions: vec![version], ..ClientOptions::default() };
                let client = client.config().unwrap();
                let first = held(&proxy, &client).await;
                are("a connection of one worker", |counts| counts == [1, 0] || counts == [0, 1]).await;
                let second = held(&proxy, &client).await;
                are("a connection of each worker", |counts| counts == [1, 1]).await;
                assert!(!first.is_resumed() && second.is_resumed(), "{:?}, {own:?}", version.version);
                drop((first, second));
                are("no connection", |counts| counts == [0, 0]).await;
            }
        }
    }
}

/// Who is known is not known any more once it is revoked, whatever it resumes; Envoy is not asked, as it would let it in
/// where its ticket opens.
#[tokio::test(flavor = "multi_thread")]
async fn who_is_revoked_does_not_come_back_with_a_ticket() {
    let root = Authority::new("root").unwrap();
    let issue = |serial| root.issue(&Wanted { serial, ..Wanted::default() }).unwrap();
    let (server, client, other) = (issue(1), issue(2), issue(3));
    let upstream = Upstream::start().await.unwrap();
    let management = ManagementServer::start().await.unwrap();
    let hand_out = |version: &str, revoked: &[u64]| {
        let list = inline(&root.revoke(revoked).unwrap());
        let context = format!("{{trusted_ca: {}, crl: {list}}}", inline(&root.pem));
        management.set(&SDS, version, [secret(&format!("{{name: clients, validation_context: {context}}}"))]);
    };
    hand_out("1", &[99]);
    let common = format!(
        "tls_certificates: [{}]\nvalidation_context_sds_secret_config: {{name: clients{}}}\n",
        server.inline(),
        source_of("GRPC", "")
    );
    let context = format!("session_ticket_keys: {}\nrequire_client_certificate: true\n", keys("a"));
    let listener = HttpListener::to_up("strict").chain(&downstream(&common, &context)).yaml();
    let up = fill(&cluster("up", "up", ""), [("up", port(upstream.addr()))]);
    let clusters = management_cluster(&socket(management.address())) + &up;
    let config = bootstrap_of("", &[listener], &clusters, "GRPC");
    let proxy = Proxy::start(&Binary::subject().unwrap(), &config).await.unwrap();
    let updates = async |count: i64| {
        eventually("the list", SOON, async || {
            (proxy.admin().stat("sds.clients.update_success").await.ok()? == count).then_some(())
        })
        .await
        .unwrap();
    };
    updates(1).await;
    let [client, other] = [&client, &other].map(|one| ClientOptions::with(one).config().unwrap());
    for (config, resumed) in [(&client, false), (&other, false), (&client, true), (&client, true)] {
        let outcome = get(&proxy, "strict", config).await;
        assert_eq!((outcome.handshake.as_str(), outcome.resumed), ("ok", resumed));
    }
    hand_out("2", &[2]);
    updates(2).await;
    for (config, is_let_in) in [(&client, false), (&other, true)] {
        let outcome = get(&proxy, "strict", config).await;
        assert_eq!(outcome.handshake == "ok", is_let_in, "{outcome:?}");
    }
    let refused = eventually("the count", SOON, async || {
        proxy.admin().get("/stats?filter=ssl.fail_verify_error").await.ok()
    });
    assert!(refused.await.unwrap().contains("fail_verify_error: 1"));
}
