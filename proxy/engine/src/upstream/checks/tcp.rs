//! TCP checks: a connection, and perhaps bytes over it.

use std::future::poll_fn;
use std::io::IoSlice;

use bytes::BytesMut;
use proxy_core::config::{BuildCx, Rejected};
use proxy_core::upstream::{CheckFailure, CheckResult, FailureKind, Payload};
use xds_api::envoy::config::core::v3::health_check as proto;

use super::wire::{Broken, Kept, Probe};
use crate::net::connection::Connection;

/// How many bytes that a host sends are looked through. What is waited for must be within the last of them.
const MOST_KEPT: usize = 64 * 1024;
pub(in crate::upstream) const NO_PROXY_PROTOCOL: &str =
    "only the transport socket of the cluster may tell of connections";

/// `TcpHealthCheck`
pub(super) struct TcpCheck {
    send: Box<[u8]>,
    receive: Payload,
}

impl TcpCheck {
    pub(super) fn build(proto: &proto::TcpHealthCheck, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let proto::TcpHealthCheck { send, receive, proxy_protocol_config } = proto;
        let is_told = proxy_protocol_config.is_some();
        cx.reject_if(is_told, "proxy_protocol_config", NO_PROXY_PROTOCOL)?;
        let send = send.as_ref().map(|send| cx.at("send", |cx| Payload::piece(send, cx)));
        let receive = Payload::build_all("receive", receive, cx);
        let send = send.transpose()?.unwrap_or_default();
        let receive = receive?;
        if receive.len() > MOST_KEPT {
            return Err(cx.at("receive", |cx| cx.reject(format!("must be at most {MOST_KEPT} bytes"))));
        }
        Ok(Self { send, receive })
    }

    pub(super) async fn ask(&self, probe: &mut Probe<'_>) -> CheckResult {
        match self.exchange(probe).await {
            Ok(()) => CheckResult::Passed { degraded: false },
            Err(Broken) => CheckResult::Failed(CheckFailure::of(FailureKind::Network)),
        }
    }

    async fn exchange(&self, probe: &mut Probe<'_>) -> Result<(), Broken> {
        let connection = match probe.kept.take() {
            Some(Kept::Tcp(connection)) => connection,
            Some(Kept::Http1(_) | Kept::Http2(_)) | None => probe.connect().await?,
        };
        if self.receive.is_empty() {
            // That it is there is all that was asked.
            return Ok(());
        }
        write_all(&connection, &self.send).await?;
        self.await_answer(&connection).await?;
        probe.keep(Kept::Tcp(connection));
        Ok(())
    }

    async fn await_answer(&self, connection: &Connection) -> Result<(), Broken> {
        let mut received = BytesMut::new();
        loop {
            let count = poll_fn(|cx| connection.poll_read(cx, &mut received)).await.map_err(|_| Broken)?;
            if count == 0 {
                return Err(Broken);
            }
            if self.receive.is_in(&received) {
                return Ok(());
            }
            let excess = received.len().saturating_sub(MOST_KEPT);
            let _ = received.split_to(excess);
        }
    }
}

async fn write_all(connection: &Connection, mut bytes: &[u8]) -> Result<(), Broken> {
    while !bytes.is_empty() {
        let written = poll_fn(|cx| connection.poll_write(cx, &[IoSlice::new(bytes)]));
        let written = written.await.map_err(|_| Broken)?;
        bytes = bytes.get(written..).unwrap_or_default();
    }
    Ok(())
}
