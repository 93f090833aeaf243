//! Inputs: what a matcher looks at.

use std::borrow::Cow;
use std::fmt::{self, Write};
use std::net::IpAddr;
use std::ops::Deref;

use smallvec::SmallVec;
use xds_api::envoy::extensions::matching::common_inputs::network::v3 as proto;
use xds_api::envoy::extensions::matching::common_inputs::network::v3::dynamic_metadata_input::path_segment::Segment;
use xds_api::envoy::r#type::matcher::v3::HttpRequestHeaderMatchInput;
use xds_api::xds::core::v3::TypedExtensionConfig;

use super::Inputs;
use crate::config::{BuildCx, Rejected};
use crate::extension::decode;
use crate::facts::{Facts, Layer, Whose};
use crate::matcher::RequestHeader;
use crate::tls::{Certificate, SanKind};

/// What is looked at.
pub(super) enum Input {
    Ip(Whose),
    Port(Whose),
    ServerName,
    /// `local` or nothing.
    SourceType,
    TransportProtocol,
    /// Those that the client offers, quoted, with commas between them.
    ApplicationProtocols,
    Header(RequestHeader),
    /// Names of the peer's certificate, joined by commas.
    Names(SanKind),
    Subject,
    Metadata(Box<str>, Box<[String]>),
    FilterState(Box<str>, Option<Box<str>>),
}

/// What was found there.
pub(super) enum Value<'a> {
    /// It cannot be had.
    Unavailable,
    /// There is none.
    Absent,
    Text(Text<'a>),
    /// Metadata, be it there or not.
    Data(Option<&'a prost_types::Value>),
}

/// Text that is there already, or is short.
pub(super) enum Text<'a> {
    Borrowed(&'a [u8]),
    Made(SmallVec<[u8; 64]>),
}

impl Deref for Text<'_> {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match self {
            Self::Borrowed(text) => text,
            Self::Made(text) => text,
        }
    }
}

impl Input {
    /// Builds one, if it is among `inputs`.
    pub(super) fn build(
        extension: Option<&TypedExtensionConfig>,
        inputs: &Inputs<'_>,
        cx: &mut BuildCx<'_>,
    ) -> Result<Self, Rejected> {
        let Some(extension) = extension else { return Err(cx.reject("value is required")) };
        super::unpacked(extension, cx, |message, payload, cx| {
            let input = match (inputs.admits)(message) {
                true => Self::build_kind(message, payload, inputs.layer, cx)?,
                false => None,
            };
            input.ok_or_else(|| cx.reject((inputs.refuse)(message)))
        })
    }

    fn build_kind(
        message: &str,
        payload: &[u8],
        layer: Layer,
        cx: &mut BuildCx<'_>,
    ) -> Result<Option<Self>, Rejected> {
        const NETWORK: &str = "envoy.extensions.matching.common_inputs.network.v3.";
        const SSL: &str = "envoy.extensions.matching.common_inputs.ssl.v3.";
        if message == "envoy.type.matcher.v3.HttpRequestHeaderMatchInput" && layer == Layer::Http {
            let HttpRequestHeaderMatchInput { header_name } = decode(payload, cx)?;
            let header = cx.at("header_name", |cx| RequestHeader::build(&header_name, cx))?;
            return Ok(Some(Self::Header(header)));
        }
        if let Some(name) = message.strip_prefix(SSL) {
            return Ok(match name {
                "UriSanInput" => Some(Self::Names(SanKind::Uri)),
                "DnsSanInput" => Some(Self::Names(SanKind::Dns)),
                "SubjectInput" => Some(Self::Subject),
                _ => None,
            });
        }
        let Some(name) = message.strip_prefix(NETWORK) else { return Ok(None) };
        Ok(match name {
            "DestinationIPInput" => Some(Self::Ip(Whose::Destination)),
            "DestinationPortInput" => Some(Self::Port(Whose::Destination)),
            "SourceIPInput" => Some(Self::Ip(Whose::Remote)),
            "SourcePortInput" => Some(Self::Port(Whose::Remote)),
            "DirectSourceIPInput" => Some(Self::Ip(Whose::DirectRemote)),
            "ServerNameInput" => Some(Self::ServerName),
            "SourceTypeInput" if layer == Layer::Network => Some(Self::SourceType),
            "TransportProtocolInput" if layer == Layer::Network => Some(Self::TransportProtocol),
            "ApplicationProtocolInput" if layer == Layer::Network => Some(Self::ApplicationProtocols),
            "DynamicMetadataInput" if layer == Layer::Http => {
                let proto::DynamicMetadataInput { filter, path } = decode(payload, cx)?;
                let path = cx.each("path", path, |segment, cx| match segment.segment {
                    Some(Segment::Key(key)) => Ok(key),
                    None => Err(cx.reject("key must be set")),
                })?;
                Some(Self::Metadata(filter.into(), path.into()))
            }
            "FilterStateInput" => {
                let proto::FilterStateInput { key, field } = decode(payload, cx)?;
                Some(Self::FilterState(key.into(), (!field.is_empty()).then(|| field.into())))
            }
            _ => None,
        })
    }

    /// Whether its values are text.
    pub(super) fn is_text(&self) -> bool {
        !matches!(self, Self::Metadata(..))
    }

    /// The address that is there, or that a text is; `None` if it cannot be had.
    pub(super) fn ip(&self, facts: &Facts<'_>) -> Option<Option<IpAddr>> {
        if let Self::Ip(whose) = self {
            return Some(facts.ip(*whose));
        }
        match self.value(facts) {
            Value::Unavailable => None,
            Value::Absent | Value::Data(_) => Some(None),
            Value::Text(text) => Some(std::str::from_utf8(&text).ok().and_then(|text| text.parse().ok())),
        }
    }

    /// What is there.
    pub(super) fn value<'a>(&'a self, facts: &Facts<'a>) -> Value<'a> {
        let info = facts.info;
        match self {
            Self::Ip(whose) => facts.ip(*whose).map_or(Value::Absent, written),
            Self::Port(whose) => facts.address(*whose).port().map_or(Value::Absent, written),
            Self::ServerName => some(info.connection.server_name.as_ref().map_or("", |name| name.as_str())),
            Self::SourceType => some(if info.connection.is_local() { "local" } else { "" }),
            Self::TransportProtocol => some(info.connection.transport_protocol),
            Self::ApplicationProtocols => {
                quoted(info.connection.application_protocols.iter().map(|name| name.as_str()))
            }
            Self::Header(header) => match facts.request.and_then(|request| header.in_request(request)) {
                None => Value::Absent,
                Some(Cow::Borrowed(value)) => Value::Text(Text::Borrowed(value)),
                Some(Cow::Owned(value)) => Value::Text(Text::Made(value.into())),
            },
            Self::Names(kind) => of_peer(facts, |peer| joined(peer.sans_of(kind))),
            Self::Subject => of_peer(facts, |peer| some(&peer.subject)),
            Self::Metadata(namespace, path) => Value::Data(info.dynamic_metadata(namespace, path)),
            Self::FilterState(key, field) => {
                let text = info.filter_state(key).and_then(|state| match field {
                    Some(field) => state.field(field),
                    None => state.to_text(),
                });
                text.map_or(Value::Absent, |text| Value::Text(Text::Made(text.into_bytes().into())))
            }
        }
    }
}

/// Something of the peer's certificate; without TLS there cannot be one.
fn of_peer<'a>(facts: &Facts<'a>, value: impl FnOnce(&'a Certificate) -> Value<'a>) -> Value<'a> {
    let Some(tls) = &facts.info.connection.tls else { return Value::Unavailable };
    tls.peer_certificate().and_then(|peer| peer.content.as_ref()).map_or(Value::Absent, value)
}

/// Text that is none if it is empty.
fn some(text: &str) -> Value<'_> {
    if text.is_empty() { Value::Absent } else { Value::Text(Text::Borrowed(text.as_bytes())) }
}

fn written<'a>(value: impl fmt::Display) -> Value<'a> {
    struct Out(SmallVec<[u8; 64]>);
    impl Write for Out {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            self.0.extend_from_slice(text.as_bytes());
            Ok(())
        }
    }
    let mut out = Out(SmallVec::new());
    let _ = write!(out, "{value}");
    Value::Text(Text::Made(out.0))
}

fn quoted<'a>(names: impl Iterator<Item = &'a str>) -> Value<'a> {
    let mut all = SmallVec::new();
    for name in names {
        all.extend_from_slice(if all.is_empty() { b"'" } else { b",'" });
        all.extend_from_slice(name.as_bytes());
        all.push(b'\'');
    }
    if all.is_empty() { Value::Absent } else { Value::Text(Text::Made(all)) }
}

fn joined<'a>(mut names: impl Iterator<Item = &'a str>) -> Value<'a> {
    let Some(first) = names.next() else { return Value::Absent };
    let Some(second) = names.next() else { return Value::Text(Text::Borrowed(first.as_bytes())) };
    let mut all = SmallVec::from_slice(first.as_bytes());
    for name in std::iter::once(second).chain(names) {
        all.push(b',');
        all.extend_from_slice(name.as_bytes());
    }
    Value::Text(Text::Made(all))
}
