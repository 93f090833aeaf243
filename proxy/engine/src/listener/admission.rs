//! The policies of a filter chain look at a new connection.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use proxy_core::extension::http_filter::Engine;
use proxy_core::extension::network_filter::{ConnectionStep, ConnectionVerdict, NetworkFilter};
use proxy_core::stream_error::Details;
use proxy_core::stream_info::{ConnectionInfo, StreamInfo};

use super::config::FilterChain;
use crate::context::Context;
use crate::local::clock;
use crate::local::drain::DrainHandle;
use crate::net::connection::Connection;
use crate::net::gate::greeting;

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
    /// Has the policies of `chain` look at a connection.
    pub(super) async fn of(context: &Rc<Context>, chain: &FilterChain, info: Rc<ConnectionInfo>) -> Self {
        let mut policies = create_policies(chain, context);
        let mut stream = Box::new(stream_of(info));
        let passed = pass(&mut policies, &mut stream).await;
        let is_granted = passed.is_ok();
        match passed {
            Err(details) => drop(stream.local_close_reason.get_or_insert(details)),
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

async fn pass(policies: &mut [Box<dyn NetworkFilter>], stream: &mut StreamInfo) -> Result<(), Details> {
    for policy in policies {
        match policy.on_connection(stream) {
            ConnectionStep::Continue => {}
            ConnectionStep::Close(details) => return Err(details),
            ConnectionStep::Wait(future) => match future.await {
                ConnectionVerdict::Continue => {}
                ConnectionVerdict::Close(details) => return Err(details),
            },
        }
    }
    Ok(())
}
