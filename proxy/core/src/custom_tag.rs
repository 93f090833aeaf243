//! Tags that configuration adds to spans (`envoy.type.tracing.v3.CustomTag`).
//!
//! Source: Envoy `custom_tag.proto`, `source/common/tracing/custom_tag_impl.cc`.

use std::borrow::Cow;

use http::HeaderName;
use xds_api::envoy::r#type::metadata::v3::metadata_key::path_segment::Segment;
use xds_api::envoy::r#type::metadata::v3::metadata_kind::Kind;
use xds_api::envoy::r#type::tracing::v3 as proto;
use xds_api::envoy::r#type::tracing::v3::custom_tag::Type;

use crate::config::FieldUse::{Rejected as Refused, Used};
use crate::config::{BuildCx, MessageFields, Rejected};
use crate::extension::access_log::LogEntry;
use crate::format::{Empty, Format};

/// How the fields of the messages are used.
pub const FIELDS: &[MessageFields] = &[
    (
        "envoy.type.tracing.v3.CustomTag",
        &[
            ("tag", Used),
            ("literal", Used),
            ("environment", Used),
            ("request_header", Used),
            ("metadata", Used),
            ("value", Used),
            ("value_type", Refused("values are texts")),
        ],
    ),
    ("envoy.type.tracing.v3.CustomTag.Literal", &[("value", Used)]),
    ("envoy.type.tracing.v3.CustomTag.Environment", &[("name", Used), ("default_value", Used)]),
    ("envoy.type.tracing.v3.CustomTag.Header", &[("name", Used), ("default_value", Used)]),
    (
        "envoy.type.tracing.v3.CustomTag.Metadata",
        &[("kind", Used), ("metadata_key", Used), ("default_value", Used)],
    ),
    (
        "envoy.type.metadata.v3.MetadataKind",
        &[("request", Used), ("route", Used), ("cluster", Used), ("host", Used)],
    ),
    ("envoy.type.metadata.v3.MetadataKind.Request", &[]),
    ("envoy.type.metadata.v3.MetadataKind.Route", &[]),
    ("envoy.type.metadata.v3.MetadataKind.Cluster", &[]),
    ("envoy.type.metadata.v3.MetadataKind.Host", &[]),
];

/// A tag.
#[derive(Debug)]
pub struct CustomTag {
    name: String,
    source: Source,
    default: String,
}

#[derive(Debug)]
enum Source {
    /// The default is all there is.
    Default,
    Header(HeaderName),
    Format(Format),
}

impl CustomTag {
    /// Builds from `proto`.
    pub fn build(proto: &proto::CustomTag, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let proto::CustomTag { tag, value_type: _, r#type } = proto;
        if tag.is_empty() {
            return Err(cx.at("tag", |cx| cx.reject("value length must be at least 1 characters")));
        }
        let (source, default) = match r#type {
            None => return Err(cx.reject("a tag needs a type")),
            Some(Type::Literal(literal)) => (Source::Default, literal.value.clone()),
            Some(Type::Environment(environment)) => {
                let value = std::env::var(&environment.name).ok();
                (Source::Default, value.unwrap_or_else(|| environment.default_value.clone()))
            }
            Some(Type::RequestHeader(header)) => {
                let name = HeaderName::from_bytes(header.name.as_bytes());
                let name = name.map_err(|_| {
                    cx.at("request_header", |cx| cx.reject(format!("'{}' is not a header name", header.name)))
                })?;
                (Source::Header(name), header.default_value.clone())
            }
            Some(Type::Metadata(metadata)) => (
                Source::Format(cx.at("metadata", |cx| build_metadata(metadata, cx))?),
                metadata.default_value.clone(),
            ),
            Some(Type::Value(text)) => {
                let format = Format::parse_with(text, Empty::Omit);
                let format = format.map_err(|reason| cx.at("value", |cx| cx.reject(reason)))?;
                (Source::Format(format), String::new())
            }
        };
        Ok(Self { name: tag.clone(), source, default })
    }

    /// Adds it to `tags`, in place of one of its name, if it has a value.
    pub fn add(&self, entry: &LogEntry<'_>, tags: &mut Vec<(Cow<'static, str>, String)>) {
        let value = match &self.source {
            Source::Default => None,
            Source::Header(name) => {
                let value = entry.request.and_then(|request| request.headers.get(name));
                value.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
            }
            Source::Format(format) => {
                let mut value = Vec::new();
                format.render(entry, &mut value);
                Some(String::from_utf8_lossy(&value).into_owned()).filter(|value| !value.is_empty())
            }
        };
        let value = value.unwrap_or_else(|| self.default.clone());
        if value.is_empty() {
            return;
        }
        match tags.iter_mut().find(|(name, _)| *name == self.name) {
            Some((_, known)) => *known = value,
            None => tags.push((Cow::Owned(self.name.clone()), value)),
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// The command of formats that prints the same.
fn build_metadata(proto: &proto::custom_tag::Metadata, cx: &mut BuildCx<'_>) -> Result<Format, Rejected> {
    let kind = proto.kind.as_ref().and_then(|kind| kind.kind.as_ref());
    let command = match kind {
        Some(Kind::Request(_)) => "DYNAMIC_METADATA(",
        Some(Kind::Route(_)) => "METADATA(ROUTE:",
        Some(Kind::Cluster(_)) => "CLUSTER_METADATA(",
        Some(Kind::Host(_)) => "UPSTREAM_METADATA(",
        None => return Err(cx.at("kind", |cx| cx.reject("value is required"))),
    };
    let Some(key) = &proto.metadata_key else {
        return Err(cx.at("metadata_key", |cx| cx.reject("value is required")));
    };
    let mut path = vec![key.key.as_str()];
    path.extend(key.path.iter().map(|segment| match &segment.segment {
        Some(Segment::Key(key)) => key.as_str(),
        // (What is looked for in a list is refused below.)
        Some(Segment::Index(_)) | None => "",
    }));
    if path.iter().any(|part| part.is_empty() || part.contains([':', ')', '%'])) {
        let reason = "keys may be neither empty nor have ':', ')' or '%', nor be indices";
        return Err(cx.at("metadata_key", |cx| cx.reject(reason)));
    }
    Format::parse_with(&format!("%{command}{})%", path.join(":")), Empty::Omit)
        .map_err(|reason| cx.reject(reason))
}
