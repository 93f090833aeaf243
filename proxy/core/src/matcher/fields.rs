//! What becomes of every field of the matchers' messages.

use crate::config::FieldUse::{Rejected, Used};
use crate::config::MessageFields;

/// Fields by message.
pub const FIELDS: &[MessageFields] = &[
    (
        "envoy.type.matcher.v3.StringMatcher",
        &[
            ("exact", Used),
            ("prefix", Used),
            ("suffix", Used),
            ("safe_regex", Used),
            ("contains", Used),
            ("custom", Rejected("string matcher extensions are not available")),
            ("ignore_case", Used),
        ],
    ),
    ("envoy.type.matcher.v3.RegexMatcher", &[("google_re2", Used), ("regex", Used)]),
    ("envoy.type.matcher.v3.RegexMatcher.GoogleRE2", &[("max_program_size", Used)]),
    ("envoy.type.matcher.v3.RegexMatchAndSubstitute", &[("pattern", Used), ("substitution", Used)]),
    ("envoy.type.matcher.v3.PathMatcher", &[("path", Used)]),
    (
        "envoy.type.matcher.v3.MetadataMatcher",
        &[("filter", Used), ("path", Used), ("value", Used), ("invert", Used)],
    ),
    ("envoy.type.matcher.v3.MetadataMatcher.PathSegment", &[("key", Used)]),
    (
        "envoy.type.matcher.v3.ValueMatcher",
        &[
            ("null_match", Used),
            ("double_match", Used),
            ("string_match", Used),
            ("bool_match", Used),
            ("present_match", Used),
            ("list_match", Used),
            ("or_match", Used),
        ],
    ),
    ("envoy.type.matcher.v3.ValueMatcher.NullMatch", &[]),
    ("envoy.type.matcher.v3.DoubleMatcher", &[("range", Used), ("exact", Used)]),
    ("envoy.type.matcher.v3.ListMatcher", &[("one_of", Used)]),
    ("envoy.type.matcher.v3.OrMatcher", &[("value_matchers", Used)]),
    (
        "envoy.type.matcher.v3.FilterStateMatcher",
        &[("key", Used), ("string_match", Used), ("address_match", Used)],
    ),
    ("envoy.type.matcher.v3.AddressMatcher", &[("ranges", Used), ("invert_match", Used)]),
    ("envoy.config.core.v3.CidrRange", &[("address_prefix", Used), ("prefix_len", Used)]),
    ("xds.core.v3.CidrRange", &[("address_prefix", Used), ("prefix_len", Used)]),
];
