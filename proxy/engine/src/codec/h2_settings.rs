//! Parameters of SETTINGS that configuration adds (`Http2ProtocolOptions.custom_settings_parameters`).
//!
//! The `h2` crate sends none but its own, so they are put into the first frame that it writes, ahead of its own, as Envoy does: where
//! both name the same parameter, the peer goes by the one that comes last (RFC 9113, 6.5.3).

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use proxy_core::config::{BuildCx, Rejected};
use tokio::io::AsyncWrite;
use xds_api::envoy::config::core::v3::Http2ProtocolOptions;

use super::h2_guard::Side;

/// Octets of a frame header (RFC 9113, 4.1).
const HEADER: usize = 9;
const SETTINGS: u8 = 4;
/// Octets of a parameter.
const PARAMETER: usize = 6;
/// More parameters than this do not fit into the frame that everybody has to accept (16,384 octets), beside the codec's own.
const MOST: usize = 2700;

/// `max_metadata_size` where it is not said.
const MAX_METADATA_SIZE: u64 = 1024 * 1024;

const HEADER_TABLE_SIZE: u16 = 1;
const ENABLE_PUSH: u16 = 2;
const MAX_CONCURRENT_STREAMS: u16 = 3;
const INITIAL_WINDOW_SIZE: u16 = 4;
const MAX_FRAME_SIZE: u16 = 5;
const MAX_HEADER_LIST_SIZE: u16 = 6;
const ENABLE_CONNECT_PROTOCOL: u16 = 8;

/// The parameters of one side.
#[derive(Debug, PartialEq, Eq)]
pub struct CustomSettings {
    /// In order, no identifier twice.
    parameters: Vec<(u16, u32)>,
    /// What the codec has to accept.
    max_frame_size: Option<u32>,
}

impl CustomSettings {
    /// The parameters that `proto` adds, if any.
    pub fn build(
        proto: &Http2ProtocolOptions,
        side: Side,
        cx: &mut BuildCx<'_>,
    ) -> Result<Option<Arc<Self>>, Rejected> {
        if proto.custom_settings_parameters.is_empty() {
            return Ok(None);
        }
        cx.at("custom_settings_parameters", |cx| Self::build_here(proto, side, cx))
            .map(|built| Some(Arc::new(built)))
    }

    fn build_here(proto: &Http2ProtocolOptions, side: Side, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let mut parameters: Vec<(u16, u32)> = Vec::new();
        let (mut differing, mut named) = (Vec::new(), Vec::new());
        for parameter in &proto.custom_settings_parameters {
            let id = u16::try_from(parameter.identifier.unwrap_or_default()).unwrap_or_default();
            let value = parameter.value.unwrap_or_default();
            check(id, value, side).map_err(|reason| cx.reject(reason))?;
            match parameters.iter().find(|(other, _)| *other == id) {
                Some((_, before)) if *before != value => differing.push(format!("0x{id:02x}")),
                Some(_) => {}
                None => parameters.push((id, value)),
            }
            match id {
                HEADER_TABLE_SIZE if proto.hpack_table_size.is_some() => named.push("hpack_table_size"),
                MAX_CONCURRENT_STREAMS if proto.max_concurrent_streams.is_some() => {
                    named.push("max_concurrent_streams");
                }
                INITIAL_WINDOW_SIZE if proto.initial_stream_window_size.is_some() => {
                    named.push("initial_stream_window_size");
                }
                _ => {}
            }
        }
        if !differing.is_empty() {
            return Err(cx.reject(format!(
                "inconsistent HTTP/2 custom SETTINGS parameter(s) detected; identifiers = {{{}}}",
                differing.join(",")
            )));
        }
        if !named.is_empty() {
            return Err(cx.reject(format!(
                "the {{{}}} HTTP/2 SETTINGS parameter(s) can not be configured through both named and custom parameters",
                named.join(",")
            )));
        }
        if parameters.len() > MOST {
            return Err(cx.reject(format!("more than {MOST} parameters do not fit into a frame")));
        }
        let max_frame_size = parameters.iter().find(|(id, _)| *id == MAX_FRAME_SIZE).map(|(_, value)| *value);
        // A client says by itself that it takes no pushes; of the frame size the codec speaks.
        parameters.retain(|(id, _)| *id != MAX_FRAME_SIZE && (*id != ENABLE_PUSH || side == Side::Server));
        Ok(Self { parameters, max_frame_size })
    }

    /// What the codec has to accept, if it is said.
    pub(crate) fn max_frame_size(&self) -> Option<u32> {
        self.max_frame_size
    }

    /// The SETTINGS at the start of `bytes` with these parameters, and how many octets they replace.
    fn replace(&self, bytes: &[u8]) -> Option<(Vec<u8>, usize)> {
        let [l0, l1, l2, SETTINGS, flags, rest @ ..] = bytes else { return None };
        let length = u32::from_be_bytes([0, *l0, *l1, *l2]) as usize;
        let stream = rest.get(..4)?;
        let own = bytes.get(HEADER..HEADER + length)?;
        let is_told = |id: u16| self.parameters.iter().any(|(other, _)| *other == id);
        let mut payload = Vec::with_capacity(length + self.parameters.len() * PARAMETER);
        for (id, value) in &self.parameters {
            payload.extend_from_slice(&id.to_be_bytes());
            payload.extend_from_slice(&value.to_be_bytes());
        }
        for parameter in own.chunks_exact(PARAMETER) {
            // Envoy has no limit of its own that it tells.
            if !(is_told(MAX_HEADER_LIST_SIZE) && parameter.starts_with(&MAX_HEADER_LIST_SIZE.to_be_bytes()))
            {
                payload.extend_from_slice(parameter);
            }
        }
        let [_, n0, n1, n2] = u32::try_from(payload.len()).ok()?.to_be_bytes();
        let header = [n0, n1, n2, SETTINGS, *flags];
        Some(([&header, stream, &payload].concat(), HEADER + length))
    }
}

/// Whether a parameter may be said at all.
fn check(id: u16, value: u32, side: Side) -> Result<(), String> {
    match id {
        ENABLE_PUSH if value == 1 => {
            Err("server push is not supported by Envoy and can not be enabled via a SETTINGS parameter."
                .into())
        }
        ENABLE_CONNECT_PROTOCOL => {
            Err("the \"allow_connect\" SETTINGS parameter must only be configured through the named field"
                .into())
        }
        ENABLE_PUSH if side == Side::Server && value > 1 => Err(no_value(id, value)),
        INITIAL_WINDOW_SIZE if value > 0x7fff_ffff => Err(no_value(id, value)),
        MAX_FRAME_SIZE if !(0x4000..=0xff_ffff).contains(&value) => Err(no_value(id, value)),
        _ => Ok(()),
    }
}

/// Envoy takes it, and then begins connections without SETTINGS.
fn no_value(id: u16, value: u32) -> String {
    format!("{value} is no value of the parameter 0x{id:02x} (RFC 9113, 6.5.2)")
}

/// Octets of METADATA that a stream may carry, if there may be any.
///
/// Nothing in SETTINGS announces it: who wants to say that it takes METADATA adds the parameter 0x4d44.
pub(crate) fn max_metadata_size(proto: &Http2ProtocolOptions) -> Option<usize> {
    let size = proto.max_metadata_size.unwrap_or(MAX_METADATA_SIZE);
    proto.allow_metadata.then(|| usize::try_from(size).unwrap_or(usize::MAX))
}

/// The beginning of a connection, until the first SETTINGS are written.
pub(crate) struct Opening {
    settings: Arc<CustomSettings>,
    /// Octets of the preface that are still to come.
    preface: usize,
    frame: Vec<u8>,
    written: usize,
    /// Octets that `frame` replaces.
    replaced: usize,
}

/// What became of what was to be written.
pub(crate) enum Opened {
    /// This many octets of it were written.
    Preface(usize),
    /// In place of this many octets of it, these were.
    Settings(usize, Vec<u8>),
    /// Nothing: it is not what a connection begins with.
    Neither,
}

impl Opening {
    /// A connection that begins with a preface of `preface` octets.
    pub(crate) fn new(settings: Arc<CustomSettings>, preface: usize) -> Self {
        Self { settings, preface, frame: Vec::new(), written: 0, replaced: 0 }
    }

    /// Writes the preface or the SETTINGS at the start of `bytes`. To be called with the same bytes until it is ready.
    pub(crate) fn poll_write<T: AsyncWrite + Unpin>(
        &mut self,
        io: &mut T,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<Opened>> {
        if self.preface > 0 {
            let preface = bytes.get(..self.preface).unwrap_or(bytes);
            let count = ready!(Pin::new(io).poll_write(cx, preface))?;
            self.preface -= count;
            return Poll::Ready(Ok(Opened::Preface(count)));
        }
        if self.frame.is_empty() {
            let Some(replaced) = self.settings.replace(bytes) else {
                return Poll::Ready(Ok(Opened::Neither));
            };
            (self.frame, self.replaced) = replaced;
        }
        while let Some(rest) = self.frame.get(self.written..).filter(|rest| !rest.is_empty()) {
            let count = ready!(Pin::new(&mut *io).poll_write(cx, rest))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += count;
        }
        Poll::Ready(Ok(Opened::Settings(self.replaced, std::mem::take(&mut self.frame))))
    }
}

#[cfg(test)]
mod tests {
    use proxy_core::stats::Registry;

    use super::*;
    use crate::codec::h2_guard::{FrameLimits, Guarded, Traffic};

    fn frame(parameters: &[(u16, u32)]) -> Vec<u8> {
        let mut bytes =
            vec![0, 0, u8::try_from(parameters.len() * PARAMETER).unwrap(), SETTINGS, 0, 0, 0, 0, 0];
        for (id, value) in parameters {
            bytes.extend_from_slice(&id.to_be_bytes());
            bytes.extend_from_slice(&value.to_be_bytes());
        }
        bytes
    }

    #[test]
    fn parameters_precede_those_of_the_codec() {
        let settings = |parameters: &[(u16, u32)]| CustomSettings {
            parameters: parameters.to_vec(),
            max_frame_size: None,
        };
        let own = frame(&[(3, 100), (4, 1000), (6, 65536)]);
        let (replaced, length) =
            settings(&[(99, 1), (4, 5)]).replace(&[own.clone(), vec![1, 2]].concat()).unwrap();
        assert_eq!(length, own.len());
        assert_eq!(replaced, frame(&[(99, 1), (4, 5), (3, 100), (4, 1000), (6, 65536)]));
        // A limit of heads that is told replaces the codec's.
        let (replaced, _) = settings(&[(6, 5)]).replace(&own).unwrap();
        assert_eq!(replaced, frame(&[(6, 5), (3, 100), (4, 1000)]));
        for other in [&own[..own.len() - 1], &own[..8], b"", &[0, 0, 0, 6, 0, 0, 0, 0, 0]] {
            assert!(settings(&[(99, 1)]).replace(other).is_none(), "{other:?}");
        }
    }

    /// However little is taken at once, and however often nothing, what is written is the same.
    #[tokio::test]
    async fn a_slow_socket_gets_every_octet_once() {
        use tokio::io::AsyncWriteExt;
        let own = frame(&[(3, 100)]);
        for (side, preface) in [(Side::Server, &b""[..]), (Side::Client, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")]
        {
            for size in 1..40 {
                let settings =
                    Arc::new(CustomSettings { parameters: vec![(99, 5), (98, 7)], max_frame_size: None });
                let (near, mut far) = tokio::io::duplex(size);
                let mut guarded = guarded(near, side).with_settings(Some(&settings));
                let bytes = [preface, &own, b"rest"].concat();
                let (written, read) = tokio::join!(
                    async {
                        guarded.write_all(&bytes).await.unwrap();
                        guarded.shutdown().await
                    },
                    async {
                        let mut read = Vec::new();
                        tokio::io::AsyncReadExt::read_to_end(&mut far, &mut read).await.map(|_| read)
                    }
                );
                written.unwrap();
                let expected = [preface, &frame(&[(99, 5), (98, 7), (3, 100)]), b"rest"].concat();
                assert_eq!(read.unwrap(), expected, "{side:?}, {size} at once");
            }
        }
    }

    fn guarded<T>(io: T, side: Side) -> Guarded<T> {
        let limits = FrameLimits {
            empty_frames: 1,
            priority_per_stream: 100,
            window_updates_per_data: 10,
            control_frames: 1000,
        };
        let registry = Registry::new(1);
        let traffic = Traffic::Downstream(registry.scope("http").cells());
        Guarded::new(io, side, limits, registry.scope("http2").cells(), traffic)
    }
}
