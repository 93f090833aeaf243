//! `envoy.filters.network.echo`: sends back what it receives.
//!
//! Source: Envoy `docs/root/configuration/listeners/network_filters/echo_filter.rst`.

use std::cell::RefCell;
use std::sync::Arc;

use proxy_core::config::{BuildCx, MessageFields, Rejected};
use proxy_core::extension::http_filter::LocalBoxFuture;
use proxy_core::extension::network_filter::{Io, NetworkFilterConfig, NetworkFilterFactory, TerminalFilter};
use proxy_core::extension::{Descriptor, SecurityPosture, Status, decode};
use proxy_core::stream_info::StreamInfo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use xds_api::envoy::extensions::filters::network::echo::v3 as proto;

/// How the fields of the configuration are used.
pub const FIELDS: &[MessageFields] = &[("envoy.extensions.filters.network.echo.v3.Echo", &[])];

/// Bytes in hand at most; the peer is not read while they are being sent back.
const BUFFER: usize = 16 << 10;

/// The extension.
pub struct Echo;

impl NetworkFilterFactory for Echo {
    fn descriptor(&self) -> Descriptor {
        Descriptor {
            name: "envoy.filters.network.echo",
            message: "envoy.extensions.filters.network.echo.v3.Echo",
            status: Status::Stable,
            posture: SecurityPosture::RobustToUntrustedDownstreamAndUpstream,
        }
    }

    fn build(&self, payload: &[u8], cx: &mut BuildCx<'_>) -> Result<NetworkFilterConfig, Rejected> {
        let proto::Echo {} = decode(payload, cx)?;
        Ok(NetworkFilterConfig::Terminal(Arc::new(Self)))
    }
}

impl TerminalFilter for Echo {
    fn serve<'a>(&'a self, mut io: Box<dyn Io>, info: &'a RefCell<StreamInfo>) -> LocalBoxFuture<'a, ()> {
        Box::pin(async move {
            let mut buffer = vec![0; BUFFER];
            // A connection that fails needs no further word: it is over.
            while let Ok(length) = io.read(&mut buffer).await {
                info.borrow_mut().bytes_received += length as u64;
                let Some(received) = buffer.get(..length).filter(|received| !received.is_empty()) else {
                    break;
                };
                if io.write_all(received).await.is_err() || io.flush().await.is_err() {
                    return;
                }
                info.borrow_mut().bytes_sent += length as u64;
            }
            let _ = io.shutdown().await;
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{block_on, stream_info};

    #[test]
    fn bytes_come_back_and_the_end_too() {
        block_on(async {
            let (mut client, server) = tokio::io::duplex(64);
            let info = RefCell::new(stream_info());
            let serve = Echo.serve(Box::new(server), &info);
            let talk = async {
                client.write_all(b"hello").await.unwrap();
                let mut back = [0; 5];
                client.read_exact(&mut back).await.unwrap();
                assert_eq!(&back, b"hello");
                client.shutdown().await.unwrap();
                assert_eq!(client.read(&mut back).await.unwrap(), 0);
            };
            tokio::join!(serve, talk);
            let info = info.into_inner();
            assert_eq!((info.bytes_received, info.bytes_sent), (5, 5));
        });
    }
}
