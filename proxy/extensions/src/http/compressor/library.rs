//! What compresses: gzip, brotli and zstd, and their settings.
//!
//! A piece of a body is flushed as it comes, so that nobody waits for bytes that lie in a compressor; the end finishes it.
//! Source: Envoy `envoy/extensions/compression/{gzip,brotli,zstd}/compressor/v3`.

use std::io::{self, Write};

use brotli::CompressorWriter;
use brotli::enc::BrotliEncoderParams;
use brotli::enc::backward_references::BrotliEncoderMode;
use bytes::Bytes;
use flate2::{Compress, Compression, FlushCompress, Status};
use proxy_core::config::{BuildCx, Rejected};
use proxy_core::extension::decode;
use xds_api::envoy::config::core::v3::TypedExtensionConfig;
use xds_api::envoy::extensions::compression::brotli::compressor::v3 as brotli_proto;
use xds_api::envoy::extensions::compression::gzip::compressor::v3 as gzip_proto;
use xds_api::envoy::extensions::compression::zstd::compressor::v3 as zstd_proto;
use zstd::stream::raw::{CParameter, Encoder as ZstdEncoder, InBuffer, Operation, OutBuffer};
use zstd::zstd_safe::Strategy;

use super::fields::{BROTLI, DICTIONARY, GZIP, STRATEGY, ZSTD};

/// A library with its settings.
#[derive(Debug)]
pub(super) enum Library {
    Gzip { level: Compression, window_bits: u8 },
    Brotli(Box<BrotliEncoderParams>),
    Zstd { level: i32, checksum: bool, strategy: Option<Strategy> },
}

impl Library {
    pub(super) fn build(proto: &TypedExtensionConfig, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        cx.at("typed_config", |cx| {
            let Some(any) = &proto.typed_config else { return Err(cx.reject("value is required")) };
            let (message, payload) = cx.unpack(any)?;
            match message.as_str() {
                GZIP => Self::gzip(&decode(&payload, cx)?, cx),
                BROTLI => Ok(Self::brotli(&decode(&payload, cx)?)),
                ZSTD => Self::zstd(&decode(&payload, cx)?, cx),
                _ => Err(cx.reject(format!("Didn't find a registered implementation for type: '{message}'"))),
            }
        })
    }

    fn gzip(proto: &gzip_proto::Gzip, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let gzip_proto::Gzip {
            memory_level: _,
            compression_level,
            compression_strategy,
            window_bits,
            chunk_size: _,
        } = proto;
        cx.reject_if(*compression_strategy != 0, "compression_strategy", STRATEGY)?;
        let level = match u32::try_from(*compression_level) {
            Ok(level @ 1..=9) => Compression::new(level),
            _ => Compression::default(),
        };
        let window_bits = window_bits.and_then(|bits| u8::try_from(bits).ok()).unwrap_or(12);
        Ok(Self::Gzip { level, window_bits: window_bits.clamp(9, 15) })
    }

    fn brotli(proto: &brotli_proto::Brotli) -> Self {
        let brotli_proto::Brotli {
            quality,
            encoder_mode: _,
            window_bits,
            input_block_bits,
            chunk_size: _,
            disable_literal_context_modeling,
        } = proto;
        use brotli_proto::brotli::EncoderMode;
        let number = |value: &Option<u32>, default: i32| {
            value.and_then(|value| i32::try_from(value).ok()).unwrap_or(default)
        };
        Self::Brotli(Box::new(BrotliEncoderParams {
            quality: number(quality, 3),
            lgwin: number(window_bits, 18),
            lgblock: number(input_block_bits, 24),
            mode: match proto.encoder_mode() {
                EncoderMode::Text => BrotliEncoderMode::BROTLI_MODE_TEXT,
                EncoderMode::Font => BrotliEncoderMode::BROTLI_MODE_FONT,
                EncoderMode::Default | EncoderMode::Generic => BrotliEncoderMode::BROTLI_MODE_GENERIC,
            },
            disable_literal_context_modeling: i32::from(*disable_literal_context_modeling),
            ..BrotliEncoderParams::default()
        }))
    }

    fn zstd(proto: &zstd_proto::Zstd, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let zstd_proto::Zstd { compression_level, enable_checksum, strategy: _, dictionary, chunk_size: _ } =
            proto;
        cx.reject_if(dictionary.is_some(), "dictionary", DICTIONARY)?;
        use zstd_proto::zstd::Strategy as Named;
        let strategy = match proto.strategy() {
            Named::Default => None,
            Named::Fast => Some(Strategy::ZSTD_fast),
            Named::Dfast => Some(Strategy::ZSTD_dfast),
            Named::Greedy => Some(Strategy::ZSTD_greedy),
            Named::Lazy => Some(Strategy::ZSTD_lazy),
            Named::Lazy2 => Some(Strategy::ZSTD_lazy2),
            Named::Btlazy2 => Some(Strategy::ZSTD_btlazy2),
            Named::Btopt => Some(Strategy::ZSTD_btopt),
            Named::Btultra => Some(Strategy::ZSTD_btultra),
            Named::Btultra2 => Some(Strategy::ZSTD_btultra2),
        };
        let level = compression_level.and_then(|level| i32::try_from(level).ok()).unwrap_or(3);
        Ok(Self::Zstd { level, checksum: *enable_checksum, strategy })
    }

    /// As `content-encoding` and `accept-encoding` name it.
    pub(super) fn encoding(&self) -> &'static str {
        match self {
            Self::Gzip { .. } => "gzip",
            Self::Brotli(_) => "br",
            Self::Zstd { .. } => "zstd",
        }
    }

    /// Its part of the names of statistics.
    pub(super) fn stat_name(&self) -> &'static str {
        match self {
            Self::Gzip { .. } => "gzip",
            Self::Brotli(_) => "brotli",
            Self::Zstd { .. } => "zstd",
        }
    }

    /// Starts on a body.
    pub(super) fn start(&self) -> io::Result<Encoder> {
        Ok(match self {
            Self::Gzip { level, window_bits } => {
                Encoder::Gzip(Box::new(Compress::new_gzip(*level, *window_bits)))
            }
            Self::Brotli(params) => {
                Encoder::Brotli(Some(Box::new(CompressorWriter::with_params(Vec::new(), 0, params))))
            }
            Self::Zstd { level, checksum, strategy } => {
                let mut encoder = ZstdEncoder::new(*level)?;
                encoder.set_parameter(CParameter::ChecksumFlag(*checksum))?;
                if let Some(strategy) = strategy {
                    encoder.set_parameter(CParameter::Strategy(*strategy))?;
                }
                Encoder::Zstd(encoder)
            }
        })
    }
}

/// The compressor of one body.
pub(super) enum Encoder {
    Gzip(Box<Compress>),
    /// None once finished.
    Brotli(Option<Box<CompressorWriter<Vec<u8>>>>),
    Zstd(ZstdEncoder<'static>),
}

impl Encoder {
    /// What `data` becomes; with `end` the last bytes too.
    pub(super) fn compress(&mut self, data: &[u8], end: bool) -> io::Result<Bytes> {
        let out = match self {
            Self::Gzip(compress) => gzip(compress, data, end)?,
            Self::Brotli(writer) => brotli(writer, data, end)?,
            Self::Zstd(encoder) => zstd(encoder, data, end)?,
        };
        Ok(out.into())
    }
}

fn gzip(compress: &mut Compress, data: &[u8], end: bool) -> io::Result<Vec<u8>> {
    let flush = if end { FlushCompress::Finish } else { FlushCompress::Sync };
    let start = compress.total_in();
    let mut out = Vec::with_capacity(data.len() / 4 + 64);
    loop {
        let taken = usize::try_from(compress.total_in() - start).unwrap_or(data.len());
        let status = compress.compress_vec(data.get(taken..).unwrap_or_default(), &mut out, flush)?;
        let is_done = match end {
            true => status == Status::StreamEnd,
            // Room that is left means that nothing waits for it.
            false => compress.total_in() - start == data.len() as u64 && out.len() < out.capacity(),
        };
        if is_done {
            return Ok(out);
        }
        out.reserve(out.capacity().max(256));
    }
}

fn brotli(
    writer: &mut Option<Box<CompressorWriter<Vec<u8>>>>,
    data: &[u8],
    end: bool,
) -> io::Result<Vec<u8>> {
    let Some(open) = writer else { return Ok(Vec::new()) };
    open.write_all(data)?;
    if !end {
        open.flush()?;
        return Ok(std::mem::take(open.get_mut()));
    }
    Ok(writer.take().map(|writer| writer.into_inner()).unwrap_or_default())
}

fn zstd(encoder: &mut ZstdEncoder<'static>, data: &[u8], end: bool) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    let mut piece = [0; 4096];
    let mut input = InBuffer::around(data);
    while input.pos() < data.len() {
        let mut output = OutBuffer::around(&mut piece[..]);
        encoder.run(&mut input, &mut output)?;
        out.extend_from_slice(output.as_slice());
    }
    loop {
        let mut output = OutBuffer::around(&mut piece[..]);
        let left = match end {
            true => encoder.finish(&mut output, true)?,
            false => encoder.flush(&mut output)?,
        };
        out.extend_from_slice(output.as_slice());
        if left == 0 {
            return Ok(out);
        }
    }
}
