//! From `SubstitutionFormatString` to a compiled format.

use prost_types::{Any, Struct};
use xds_api::envoy::config::core::v3 as proto;
use xds_api::envoy::config::core::v3::data_source::Specifier;
use xds_api::envoy::config::core::v3::substitution_format_string::Format as ProtoFormat;

use super::json::JsonFormat;
use super::{DEFAULT_FORMAT, Empty, Format};
use crate::config::{BuildCx, FieldUse, MessageFields, Rejected};
use crate::extension::access_log::LogEntry;
use crate::extension::message_name;

use FieldUse::{Ignored, Used};

/// How the fields of the messages that are read here are used.
pub const FIELDS: &[MessageFields] = &[
    (
        "envoy.config.core.v3.SubstitutionFormatString",
        &[
            ("text_format", Used),
            ("json_format", Used),
            ("text_format_source", Used),
            ("omit_empty_values", Used),
            ("content_type", Used),
            ("formatters", Used),
            ("json_format_options", Used),
        ],
    ),
    (
        "envoy.config.core.v3.JsonFormatOptions",
        &[("sort_properties", Ignored("keys are always sorted, as Envoy 1.40 does"))],
    ),
    ("envoy.extensions.formatter.metadata.v3.Metadata", &[]),
    ("envoy.extensions.formatter.req_without_query.v3.ReqWithoutQuery", &[]),
];

/// Formatters that add commands; their commands are built in, so naming them is enough.
const FORMATTERS: [&str; 2] = [
    "envoy.extensions.formatter.metadata.v3.Metadata",
    "envoy.extensions.formatter.req_without_query.v3.ReqWithoutQuery",
];

/// A format of lines or bodies: text or JSON.
#[derive(Clone, Debug)]
pub struct LineFormat {
    kind: Kind,
    content_type: Option<String>,
}

#[derive(Clone, Debug)]
enum Kind {
    Text(Format),
    Json(JsonFormat),
}

impl Default for LineFormat {
    /// Envoy's default line ([`DEFAULT_FORMAT`]).
    fn default() -> Self {
        // The default format is a constant that compiles (there is a test); were it not, lines would be empty.
        let format =
            Format::parse(DEFAULT_FORMAT).unwrap_or(Format { parts: Vec::new(), empty: Empty::Dash });
        Self::text(format)
    }
}

impl LineFormat {
    /// A text format; nothing is added to it.
    pub fn text(format: Format) -> Self {
        Self { kind: Kind::Text(format), content_type: None }
    }

    /// Compiles `text` at the current path.
    pub fn build_text(text: &str, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        Format::parse(text).map(Self::text).map_err(|reason| cx.reject(reason))
    }

    /// Compiles a JSON object at the current path.
    pub fn build_json(json: &Struct, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let json = JsonFormat::new(json, Empty::Dash).map_err(|reason| cx.reject(reason))?;
        Ok(Self { kind: Kind::Json(json), content_type: None })
    }

    /// Builds the format of `proto`. A `text_format_source` file is read now.
    pub fn build(proto: &proto::SubstitutionFormatString, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let proto::SubstitutionFormatString {
            omit_empty_values,
            content_type,
            formatters,
            json_format_options: _,
            format,
        } = proto;
        check_formatters(formatters, cx)?;
        let empty = if *omit_empty_values { Empty::Omit } else { Empty::Dash };
        let kind = match format {
            #[allow(deprecated)]
            Some(ProtoFormat::TextFormat(text)) => cx.at("text_format", |cx| {
                Format::parse_with(text, empty).map(Kind::Text).map_err(|reason| cx.reject(reason))
            })?,
            Some(ProtoFormat::TextFormatSource(source)) => cx.at("text_format_source", |cx| {
                let text = read(source, cx)?;
                Format::parse_with(&text, empty).map(Kind::Text).map_err(|reason| cx.reject(reason))
            })?,
            Some(ProtoFormat::JsonFormat(json)) => cx.at("json_format", |cx| {
                JsonFormat::new(json, empty).map(Kind::Json).map_err(|reason| cx.reject(reason))
            })?,
            None => return Err(cx.reject("format: value is required")),
        };
        Ok(Self { kind, content_type: (!content_type.is_empty()).then(|| content_type.clone()) })
    }

    /// Appends the line for `entry`. A JSON line ends in a line break; a text format ends as it was written.
    pub fn render(&self, entry: &LogEntry<'_>, out: &mut Vec<u8>) {
        match &self.kind {
            Kind::Text(format) => format.render(entry, out),
            Kind::Json(json) => {
                json.render(entry, out);
                out.push(b'\n');
            }
        }
    }

    /// Appends the body for `entry`: as [`Self::render`], but JSON without a line break.
    pub fn render_body(&self, entry: &LogEntry<'_>, out: &mut Vec<u8>) {
        match &self.kind {
            Kind::Text(format) => format.render(entry, out),
            Kind::Json(json) => json.render(entry, out),
        }
    }

    /// `content-type` of a body in this format: the configured one, else that of text or JSON.
    pub fn content_type(&self) -> &str {
        match (&self.content_type, &self.kind) {
            (Some(configured), _) => configured,
            (None, Kind::Text(_)) => "text/plain",
            (None, Kind::Json(_)) => "application/json",
        }
    }
}

/// Refuses formatters whose commands are not available; those that are need no configuration.
pub fn check_formatters(
    formatters: &[proto::TypedExtensionConfig],
    cx: &mut BuildCx<'_>,
) -> Result<(), Rejected> {
    cx.each("formatters", formatters, |formatter, cx| {
        cx.at("typed_config", |cx| check_formatter(formatter.typed_config.as_ref(), cx))
    })?;
    Ok(())
}

fn check_formatter(any: Option<&Any>, cx: &mut BuildCx<'_>) -> Result<(), Rejected> {
    let type_url = any.map(|any| any.type_url.as_str()).unwrap_or_default();
    if FORMATTERS.contains(&message_name(type_url)) {
        return Ok(());
    }
    Err(cx.reject(format!("formatter '{type_url}' is not available")))
}

/// The text of a data source.
pub(crate) fn read(source: &proto::DataSource, cx: &mut BuildCx<'_>) -> Result<String, Rejected> {
    match &source.specifier {
        Some(Specifier::InlineString(text)) => Ok(text.clone()),
        Some(Specifier::InlineBytes(bytes)) => String::from_utf8(bytes.clone())
            .map_err(|_| cx.at("inline_bytes", |cx| cx.reject("a format must be UTF-8"))),
        Some(Specifier::Filename(path)) => std::fs::read_to_string(path)
            .map_err(|error| cx.at("filename", |cx| cx.reject(format!("{path} cannot be read: {error}")))),
        Some(Specifier::EnvironmentVariable(name)) => std::env::var(name).map_err(|_| {
            cx.at("environment_variable", |cx| cx.reject(format!("variable '{name}' is not set")))
        }),
        None => Err(cx.reject("specifier: value is required")),
    }
}
