//! The policies of a filter chain look at a new connection.

use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use proxy_core::extension::http_filter::Engine;
use proxy_core::extension::network_filter::{ConnectionStep, ConnectionVerdict, NetworkFilter};
use proxy_core::stream_error::Details;
use proxy_core::stream_info::{ConnectionInfo, StreamInfo};

use super::config::{FilterChain, Terminal};
use crate::context::Context;
use crate::local::clock;
use crate::local::drain::DrainHandle;
use crate::net::connection::Connection;
use crate::net::gate::greeting;
use crate::net::leaving::EndOfPeer;

/// What the policies of a chain made of a connection.
pub(super) struct Admission {
    /// The policies.
    pub(super) policies: Vec<Box<dyn NetworkFilter>>,
    /// The connection as a stream, with what they left.
    pub(super) stream: Box<StreamInfo>,
    /// None of them closes it.
    pub(super) is_granted: bool,
}

impl Admission {
    /// Has the policies of `chain` look at a connection, unless it has `ended` before they are through, for the reason that is told.
    pub(super) async fn of(
        context: &Rc<Context>,
        chain: &FilterChain,
        info: Rc<ConnectionInfo>,
        ended: impl Future<Output = Option<Details>>,
    ) -> Self {
        let mut policies = create_policies(chain, context);
        let mut stream = Box::new(stream_of(info));
        let passed = pass(&mut policies, &mut stream, ended).await;
        let is_granted = passed.is_ok();
        match passed {
            Err(Some(details)) => drop(stream.local_close_reason.get_or_insert(details)),
            Err(None) => {}
            // What policies left is the connection's, for all of its streams.
            Ok(()) => {
                if let Some(info) = Rc::get_mut(&mut stream.connection) {
                    info.filter_state.extend(std::mem::take(&mut stream.filter_state));
                }
            }
        }
        Self { policies, stream, is_granted }
    }
}

/// What it means that the client of a connection has ended its side before it was answered anything.
pub(super) fn end_of_client(chain: &FilterChain, info: &ConnectionInfo) -> EndOfPeer {
    match &chain.terminal {
        // A handshake with somebody behind the proxy can only be gone on with by who may still send.
        Terminal::Tcp(_) if chain.tls.is_none() && info.transport_protocol == "tls" => EndOfPeer::Left,
        Terminal::Tcp(_) | Terminal::Extension(_) => EndOfPeer::Silent,
        Terminal::Http(_) | Terminal::None => EndOfPeer::Left,
    }
}

/// The connection as a stream.
pub(super) fn stream_of(info: Rc<ConnectionInfo>) -> StreamInfo {
    let start = info.start;
    StreamInfo::new(info, start, clock::wall(start))
}

fn create_policies(chain: &FilterChain, context: &Rc<Context>) -> Vec<Box<dyn NetworkFilter>> {
    if chain.policies.is_empty() {
        return Vec::new();
    }
    let engine: Rc<dyn Engine> = context.clone();
    chain.policies.iter().map(|create| create(&engine)).collect()
}

/// How long a client may leave unread what filters say to it first, which is little.
const GREETING_TIMEOUT: Duration = Duration::from_secs(10);

/// The client does not take what is said to it.
pub(super) struct Deaf;

/// Says what `policies` say before all others: how much that is.
pub(super) async fn greet(
    policies: &mut [Box<dyn NetworkFilter>],
    connection: &Connection,
    drain: &DrainHandle,
) -> Result<u64, Deaf> {
    let greeting = greeting(policies);
    if greeting.is_empty() {
        return Ok(0);
    }
    // (Boxed: few have one, and the connection of each would be larger by it.)
    Box::pin(say(greeting, connection, drain)).await
}

/// Says it, unless the client does not listen or the connection is to end.
async fn say(greeting: Bytes, connection: &Connection, drain: &DrainHandle) -> Result<u64, Deaf> {
    let saying = connection.write_all(&greeting);
    tokio::select! {
        biased;
        said = tokio::time::timeout(GREETING_TIMEOUT, saying) => match said {
            Ok(Ok(())) => Ok(greeting.len() as u64),
            Ok(Err(_)) | Err(_) => Err(Deaf),
        },
        _ = drain.closed() => Err(Deaf),
    }
}

async fn pass(
    policies: &mut [Box<dyn NetworkFilter>],
    stream: &mut StreamInfo,
    ended: impl Future<Output = Option<Details>>,
) -> Result<(), Option<Details>> {
    let mut ended = pin!(ended);
    for policy in policies {
        let verdict = match policy.on_connection(stream) {
            ConnectionStep::Continue => ConnectionVerdict::Continue,
            ConnectionStep::Close(details) => ConnectionVerdict::Close(details),
            ConnectionStep::Wait(future) => tokio::select! {
                biased;
                verdict = future => verdict,
                reason = &mut ended => return Err(reason),
            },
        };
        if let ConnectionVerdict::Close(details) = verdict {
            return Err(Some(details));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::future::{pending, ready};

    use proxy_core::address::Address;

    use super::*;

    /// Never says anything, and knows whether somebody waits for that.
    struct Mute(Rc<Cell<bool>>);

    impl NetworkFilter for Mute {
        fn on_connection<'a>(&'a mut self, _: &'a mut StreamInfo) -> ConnectionStep<'a> {
            self.0.set(true);
            let waited_for = crate::local::contain::Finally(|| self.0.set(false));
            ConnectionStep::Wait(Box::pin(async move {
                let _waited_for = waited_for;
                pending().await
            }))
        }
    }

    #[tokio::test]
    async fn nobody_waits_for_policies_once_the_connection_has_ended() {
        let address = || Address::Ip(([127, 0, 0, 1], 1).into());
        let mut stream = stream_of(Rc::new(ConnectionInfo::new(address(), address(), "l".into())));
        for reason in [None, Some("drained")] {
            let is_waited_for = Rc::new(Cell::new(false));
            let mut policies: Vec<Box<dyn NetworkFilter>> = vec![Box::new(Mute(is_waited_for.clone()))];
            let passed = pass(&mut policies, &mut stream, ready(reason.map(Details::from))).await;
            assert_eq!(passed.unwrap_err().as_deref(), reason);
            assert!(!is_waited_for.get());
        }
    }
}
