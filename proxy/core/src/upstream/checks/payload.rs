//! Bytes that a check sends, or waits for.

use xds_api::envoy::config::core::v3::health_check as proto;

use crate::config::{BuildCx, Rejected};

/// Pieces of bytes that must come one after the other, with anything between them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Payload(Box<[Box<[u8]>]>);

impl Payload {
    /// The pieces of `protos`, which are the elements of `field`.
    ///
    /// # Errors
    /// Text that is not hexadecimal, in `cx`.
    pub fn build_all(
        field: &'static str,
        protos: &[proto::Payload],
        cx: &mut BuildCx<'_>,
    ) -> Result<Self, Rejected> {
        Ok(Self(cx.each(field, protos, Self::piece)?.into()))
    }

    /// The bytes of one.
    ///
    /// # Errors
    /// Text that is not hexadecimal, in `cx`.
    pub fn piece(proto: &proto::Payload, cx: &mut BuildCx<'_>) -> Result<Box<[u8]>, Rejected> {
        match &proto.payload {
            Some(proto::payload::Payload::Text(text)) => unhex(text)
                .ok_or_else(|| cx.at("text", |cx| cx.reject(format!("invalid hex string '{text}'")))),
            Some(proto::payload::Payload::Binary(bytes)) => Ok(bytes.as_slice().into()),
            None => Err(cx.reject("text or binary must be set")),
        }
    }

    /// Whether nothing is waited for.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many bytes the pieces have together.
    pub fn len(&self) -> usize {
        self.0.iter().map(|piece| piece.len()).sum()
    }

    /// Whether `bytes` hold all pieces, in order.
    pub fn is_in(&self, bytes: &[u8]) -> bool {
        let mut rest = bytes;
        self.0.iter().all(|piece| match find(rest, piece) {
            Some(end) => {
                rest = rest.get(end..).unwrap_or_default();
                true
            }
            None => false,
        })
    }
}

/// Where the first `piece` in `bytes` ends.
fn find(bytes: &[u8], piece: &[u8]) -> Option<usize> {
    if piece.is_empty() {
        return Some(0);
    }
    bytes.windows(piece.len()).position(|window| window == piece).map(|at| at + piece.len())
}

fn unhex(text: &str) -> Option<Box<[u8]>> {
    let digits: Option<Vec<u8>> =
        text.chars().map(|digit| digit.to_digit(16).and_then(|digit| u8::try_from(digit).ok())).collect();
    let digits = digits.filter(|digits| !digits.is_empty() && digits.len() % 2 == 0)?;
    Some(digits.chunks(2).map(|pair| pair.iter().fold(0, |byte, digit| byte << 4 | digit)).collect())
}
