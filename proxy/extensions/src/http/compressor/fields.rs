//! How the fields of the filter's configuration, and of its libraries, are used.

use proxy_core::config::FieldUse::{Ignored, Rejected, Used};
use proxy_core::config::MessageFields;

pub(super) const COMPRESSOR: &str = "envoy.extensions.filters.http.compressor.v3.Compressor";
pub(super) const PER_ROUTE: &str = "envoy.extensions.filters.http.compressor.v3.CompressorPerRoute";
pub(super) const GZIP: &str = "envoy.extensions.compression.gzip.compressor.v3.Gzip";
pub(super) const BROTLI: &str = "envoy.extensions.compression.brotli.compressor.v3.Brotli";
pub(super) const ZSTD: &str = "envoy.extensions.compression.zstd.compressor.v3.Zstd";

pub(super) const STRATEGY: &str = "only the default strategy is available";
pub(super) const DICTIONARY: &str = "dictionaries are not available";
const CHUNKS: &str = "a piece of a body is compressed as a whole";

/// How the fields of the configuration are used.
pub const FIELDS: &[MessageFields] = &[
    (
        COMPRESSOR,
        &[
            ("content_length", Used),
            ("content_type", Used),
            ("disable_on_etag_header", Used),
            ("remove_accept_encoding_header", Used),
            ("runtime_enabled", Used),
            ("compressor_library", Used),
            ("request_direction_config", Used),
            ("response_direction_config", Used),
            ("choose_first", Used),
        ],
    ),
    (
        "envoy.extensions.filters.http.compressor.v3.Compressor.CommonDirectionConfig",
        &[
            ("enabled", Used),
            ("min_content_length", Used),
            ("content_type", Used),
            ("content_type_matcher", Used),
        ],
    ),
    (
        "envoy.extensions.filters.http.compressor.v3.Compressor.RequestDirectionConfig",
        &[("common_config", Used)],
    ),
    (
        "envoy.extensions.filters.http.compressor.v3.Compressor.ResponseDirectionConfig",
        &[
            ("common_config", Used),
            ("disable_on_etag_header", Used),
            ("weaken_etag_on_compress", Used),
            ("remove_accept_encoding_header", Used),
            ("uncompressible_response_codes", Used),
            ("status_header_enabled", Used),
        ],
    ),
    (PER_ROUTE, &[("disabled", Used), ("overrides", Used)]),
    (
        "envoy.extensions.filters.http.compressor.v3.CompressorOverrides",
        &[("response_direction_config", Used), ("compressor_library", Used)],
    ),
    (
        "envoy.extensions.filters.http.compressor.v3.ResponseDirectionOverrides",
        &[("remove_accept_encoding_header", Used)],
    ),
    (
        GZIP,
        &[
            ("memory_level", Ignored("the library chooses how much memory it takes")),
            ("compression_level", Used),
            ("compression_strategy", Rejected(STRATEGY)),
            ("window_bits", Used),
            ("chunk_size", Ignored(CHUNKS)),
        ],
    ),
    (
        BROTLI,
        &[
            ("quality", Used),
            ("encoder_mode", Used),
            ("window_bits", Used),
            ("input_block_bits", Used),
            ("chunk_size", Ignored(CHUNKS)),
            ("disable_literal_context_modeling", Used),
        ],
    ),
    (
        ZSTD,
        &[
            ("compression_level", Used),
            ("enable_checksum", Used),
            ("strategy", Used),
            ("dictionary", Rejected(DICTIONARY)),
            ("chunk_size", Ignored(CHUNKS)),
        ],
    ),
];
