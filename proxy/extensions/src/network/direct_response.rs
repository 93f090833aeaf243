//! `envoy.filters.network.direct_response`: sends a fixed answer to every new connection and closes it.
//!
//! Source: Envoy `docs/root/configuration/listeners/network_filters/direct_response_filter.rst`.

use std::cell::RefCell;
use std::sync::Arc;

use bytes::Bytes;
use proxy_core::config::{BuildCx, FieldUse, MessageFields, Rejected};
use proxy_core::extension::http_filter::LocalBoxFuture;
use proxy_core::extension::network_filter::{Io, NetworkFilterConfig, NetworkFilterFactory, TerminalFilter};
use proxy_core::extension::{Descriptor, SecurityPosture, Status, decode};
use proxy_core::stream_info::StreamInfo;
use tokio::io::AsyncWriteExt;
use xds_api::envoy::config::core::v3::data_source::Specifier;
use xds_api::envoy::extensions::filters::network::direct_response::v3 as proto;

/// How the fields of the configuration are used.
pub const FIELDS: &[MessageFields] =
    &[("envoy.extensions.filters.network.direct_response.v3.Config", &[("response", FieldUse::Used)])];

/// The extension.
pub struct DirectResponse;

impl NetworkFilterFactory for DirectResponse {
    fn descriptor(&self) -> Descriptor {
        Descriptor {
            name: "envoy.filters.network.direct_response",
            message: "envoy.extensions.filters.network.direct_response.v3.Config",
            status: Status::Stable,
            posture: SecurityPosture::RobustToUntrustedDownstreamAndUpstream,
        }
    }

    fn build(&self, payload: &[u8], cx: &mut BuildCx<'_>) -> Result<NetworkFilterConfig, Rejected> {
        let proto::Config { response } = decode(payload, cx)?;
        let response = cx.at("response", |cx| match response.and_then(|source| source.specifier) {
            None => Ok(Bytes::new()),
            Some(specifier) => read(specifier, cx),
        })?;
        Ok(NetworkFilterConfig::Terminal(Arc::new(Answer(response))))
    }
}

fn read(specifier: Specifier, cx: &mut BuildCx<'_>) -> Result<Bytes, Rejected> {
    match specifier {
        Specifier::InlineString(text) => Ok(text.into()),
        Specifier::InlineBytes(bytes) => Ok(bytes.into()),
        Specifier::Filename(path) => std::fs::read(&path)
            .map(Bytes::from)
            .map_err(|error| cx.at("filename", |cx| cx.reject(format!("{path} cannot be read: {error}")))),
        Specifier::EnvironmentVariable(name) => std::env::var(&name).map(Bytes::from).map_err(|_| {
            cx.at("environment_variable", |cx| cx.reject(format!("variable '{name}' is not set")))
        }),
    }
}

struct Answer(Bytes);

impl TerminalFilter for Answer {
    fn serve<'a>(&'a self, mut io: Box<dyn Io>, info: &'a RefCell<StreamInfo>) -> LocalBoxFuture<'a, ()> {
        Box::pin(async move {
            info.borrow_mut().details = Some("direct_response".into());
            if io.write_all(&self.0).await.is_ok() {
                info.borrow_mut().bytes_sent += self.0.len() as u64;
                let _ = io.shutdown().await;
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{block_on, env, stream_info};
    use prost::Message;
    use tokio::io::AsyncReadExt;
    use xds_api::envoy::config::core::v3::DataSource;

    #[test]
    fn the_answer_is_sent_and_the_connection_closed() {
        let env = env();
        let source =
            DataSource { specifier: Some(Specifier::InlineString("bye".into())), ..Default::default() };
        let config = proto::Config { response: Some(source) };
        let mut cx = BuildCx::new(&env);
        let built = DirectResponse.build(&config.encode_to_vec(), &mut cx).unwrap();
        let NetworkFilterConfig::Terminal(filter) = built else { panic!("not terminal") };
        block_on(async {
            let (mut client, server) = tokio::io::duplex(64);
            let info = RefCell::new(stream_info());
            filter.serve(Box::new(server), &info).await;
            let mut all = Vec::new();
            client.read_to_end(&mut all).await.unwrap();
            assert_eq!(all, b"bye");
            assert_eq!(info.borrow().bytes_sent, 3);
        });
    }

    #[test]
    fn a_file_that_is_missing_is_refused_with_its_path() {
        let env = env();
        let source =
            DataSource { specifier: Some(Specifier::Filename("/no/such".into())), ..Default::default() };
        let config = proto::Config { response: Some(source) };
        let mut cx = BuildCx::new(&env);
        assert!(DirectResponse.build(&config.encode_to_vec(), &mut cx).is_err());
        assert_eq!(cx.into_errors()[0].path, "response.filename");
    }
}
