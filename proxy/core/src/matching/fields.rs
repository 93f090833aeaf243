//! What becomes of every field of the matching API.

use crate::config::FieldUse::{Ignored, Rejected, Used};
use crate::config::MessageFields;

pub(super) const KEEP: &str = "keep_matching is not supported in this context";

/// Fields by message.
pub const FIELDS: &[MessageFields] = &[
    ("xds.type.matcher.v3.Matcher", &[("matcher_list", Used), ("matcher_tree", Used), ("on_no_match", Used)]),
    (
        "xds.type.matcher.v3.Matcher.OnMatch",
        &[("matcher", Used), ("action", Used), ("keep_matching", Rejected(KEEP))],
    ),
    ("xds.type.matcher.v3.Matcher.MatcherList", &[("matchers", Used)]),
    ("xds.type.matcher.v3.Matcher.MatcherList.FieldMatcher", &[("predicate", Used), ("on_match", Used)]),
    (
        "xds.type.matcher.v3.Matcher.MatcherList.Predicate",
        &[("single_predicate", Used), ("or_matcher", Used), ("and_matcher", Used), ("not_matcher", Used)],
    ),
    (
        "xds.type.matcher.v3.Matcher.MatcherList.Predicate.SinglePredicate",
        &[("input", Used), ("value_match", Used), ("custom_match", Used)],
    ),
    ("xds.type.matcher.v3.Matcher.MatcherList.Predicate.PredicateList", &[("predicate", Used)]),
    (
        "xds.type.matcher.v3.Matcher.MatcherTree",
        &[("input", Used), ("exact_match_map", Used), ("prefix_match_map", Used), ("custom_match", Used)],
    ),
    ("xds.type.matcher.v3.Matcher.MatcherTree.MatchMap", &[("map", Used)]),
    (
        "xds.type.matcher.v3.StringMatcher",
        &[
            ("exact", Used),
            ("prefix", Used),
            ("suffix", Used),
            ("safe_regex", Used),
            ("contains", Used),
            ("ignore_case", Used),
            ("custom", Rejected("string matcher extensions are not available")),
        ],
    ),
    ("xds.type.matcher.v3.RegexMatcher", &[("google_re2", Used), ("regex", Used)]),
    ("xds.type.matcher.v3.RegexMatcher.GoogleRE2", &[]),
    ("xds.type.matcher.v3.IPMatcher", &[("range_matchers", Used)]),
    (
        "xds.type.matcher.v3.IPMatcher.IPRangeMatcher",
        &[("ranges", Used), ("on_match", Used), ("exclusive", Used)],
    ),
    ("xds.type.matcher.v3.ServerNameMatcher", &[("domain_matchers", Used)]),
    ("xds.type.matcher.v3.ServerNameMatcher.DomainMatcher", &[("domains", Used), ("on_match", Used)]),
    (
        "xds.core.v3.TypedExtensionConfig",
        &[("name", Ignored("extensions are found by type, not by name")), ("typed_config", Used)],
    ),
    ("envoy.extensions.matching.common_inputs.network.v3.DestinationIPInput", &[]),
    ("envoy.extensions.matching.common_inputs.network.v3.DestinationPortInput", &[]),
    ("envoy.extensions.matching.common_inputs.network.v3.SourceIPInput", &[]),
    ("envoy.extensions.matching.common_inputs.network.v3.SourcePortInput", &[]),
    ("envoy.extensions.matching.common_inputs.network.v3.DirectSourceIPInput", &[]),
    ("envoy.extensions.matching.common_inputs.network.v3.ServerNameInput", &[]),
    ("envoy.extensions.matching.common_inputs.network.v3.SourceTypeInput", &[]),
    ("envoy.extensions.matching.common_inputs.network.v3.TransportProtocolInput", &[]),
    ("envoy.extensions.matching.common_inputs.network.v3.ApplicationProtocolInput", &[]),
    (
        "envoy.extensions.matching.common_inputs.network.v3.FilterStateInput",
        &[("key", Used), ("field", Used)],
    ),
    (
        "envoy.extensions.matching.common_inputs.network.v3.DynamicMetadataInput",
        &[("filter", Used), ("path", Used)],
    ),
    ("envoy.extensions.matching.common_inputs.network.v3.DynamicMetadataInput.PathSegment", &[("key", Used)]),
    ("envoy.extensions.matching.common_inputs.ssl.v3.UriSanInput", &[]),
    ("envoy.extensions.matching.common_inputs.ssl.v3.DnsSanInput", &[]),
    ("envoy.extensions.matching.common_inputs.ssl.v3.SubjectInput", &[]),
    ("envoy.type.matcher.v3.HttpRequestHeaderMatchInput", &[("header_name", Used)]),
    ("envoy.extensions.matching.input_matchers.ip.v3.Ip", &[("cidr_ranges", Used), ("stat_prefix", Used)]),
    ("envoy.extensions.matching.input_matchers.metadata.v3.Metadata", &[("value", Used), ("invert", Used)]),
];
