//! The pool of an upstream host under any sequence of requests, answers, failures and clients that leave: limits hold, who
//! asked is answered once, and nothing is left in the end.
#![no_main]

use arbitrary::Arbitrary;
use http::Method;
use libfuzzer_sys::fuzz_target;
use outrigger_fuzz::h1::{Answering, responses};
use outrigger_fuzz::rig::{Peer, Rig, Session};

#[derive(Arbitrary, Debug)]
enum Step {
    /// A client asks, with a body that is yet to come or without.
    Ask { begins_only: bool },
    /// The rest of a body.
    Finish(u8),
    /// The upstream answers what a connection asked; and closes.
    Answer { connection: u8, closes: bool },
    /// The upstream closes a connection.
    Close(u8),
    /// A client leaves.
    Leave(u8),
    /// A client that was answered asks again on its connection.
    Again(u8),
}

const CONNECTIONS: usize = 2;
const PENDING: usize = 2;

thread_local! {
    static RIG: Rig = Rig::new(
        "http_protocol_options: {enable_trailers: true}",
        "",
        "circuit_breakers: {thresholds: [{max_connections: 2, max_pending_requests: 2, max_requests: 2}]}",
        proxy_extensions::extensions(),
    );
}

struct Client {
    peer: Peer,
    asked: usize,
    begun: bool,
}

fuzz_target!(|steps: Vec<Step>| {
    RIG.with(|rig| rig.run(async |session| serve(session, &steps[..steps.len().min(40)]).await));
});

async fn serve(session: &Session<'_>, steps: &[Step]) {
    let mut clients: Vec<Client> = Vec::new();
    let mut upstream: Vec<(Peer, Answering, Vec<u8>)> = Vec::new();
    for step in steps {
        match step {
            Step::Ask { begins_only } if clients.len() < 8 => {
                let peer = session.connect().await;
                let body =
                    if *begins_only { "content-length: 2\r\n\r\n" } else { "content-length: 0\r\n\r\n" };
                peer.write(format!("POST / HTTP/1.1\r\nhost: a\r\n{body}").as_bytes());
                clients.push(Client { peer, asked: 1, begun: *begins_only });
            }
            Step::Finish(which) => {
                let begun: Vec<usize> = (0..clients.len()).filter(|index| clients[*index].begun).collect();
                if let Some(index) = begun.get(usize::from(*which) % begun.len().max(1)) {
                    clients[*index].peer.write(b"ok");
                    clients[*index].begun = false;
                }
            }
            Step::Answer { connection, closes } if !upstream.is_empty() => {
                let index = usize::from(*connection) % upstream.len();
                let (peer, _, answers) = &mut upstream[index];
                peer.write(&std::mem::take(answers));
                if *closes {
                    upstream.remove(index);
                }
            }
            Step::Close(which) if !upstream.is_empty() => {
                upstream.remove(usize::from(*which) % upstream.len());
            }
            Step::Leave(which) if !clients.is_empty() => {
                clients.remove(usize::from(*which) % clients.len());
            }
            Step::Again(which) if !clients.is_empty() => {
                let index = usize::from(*which) % clients.len();
                let client = &mut clients[index];
                if answered(client) == client.asked && !client.begun && !client.peer.closed {
                    client.peer.write(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n");
                    client.asked += 1;
                }
            }
            Step::Ask { .. } | Step::Answer { .. } | Step::Close(_) | Step::Leave(_) | Step::Again(_) => {}
        }
        settle(session, &mut clients, &mut upstream).await;
        check(&clients, &upstream);
    }
}

async fn settle(
    session: &Session<'_>,
    clients: &mut [Client],
    upstream: &mut Vec<(Peer, Answering, Vec<u8>)>,
) {
    loop {
        let mut peers: Vec<&mut Peer> = upstream.iter_mut().map(|(peer, ..)| peer).collect();
        peers.extend(clients.iter_mut().map(|client| &mut client.peer));
        session.settle(&mut peers).await;
        for (peer, answering, answers) in &mut *upstream {
            answers.extend(answering.take(&peer.received).1);
        }
        // What the proxy closed is gone here as well.
        upstream.retain(|(peer, ..)| !peer.closed);
        if !session.is_waiting() {
            return;
        }
        while let Some(peer) = session.accept() {
            upstream.push((peer, Answering::default(), Vec::new()));
        }
    }
}

fn answered(client: &Client) -> usize {
    let all = responses(&client.peer.received, &vec![Method::POST; client.asked], client.peer.closed);
    for response in &all {
        assert!(response.complete, "{response:?}");
        assert!(matches!(response.status, 200 | 503), "{response:?}");
    }
    all.len()
}

fn check(clients: &[Client], upstream: &[(Peer, Answering, Vec<u8>)]) {
    assert!(upstream.len() <= CONNECTIONS, "{} connections", upstream.len());
    let waiting = clients.iter().filter(|client| {
        let answered = answered(client);
        assert!(answered <= client.asked, "{answered} answers");
        answered < client.asked && !client.peer.closed
    });
    // Each is on a connection or in the line.
    let waiting = waiting.count();
    assert!(waiting <= upstream.len() + PENDING, "{waiting} wait for {} connections", upstream.len());
}
