//! Values for the filter state that a configuration names: a key, what kind of object is kept there, and a format of its text.
//!
//! Source: Envoy `api/envoy/extensions/filters/common/set_filter_state/v3/value.proto`; observed on 1.40 (`read_only` changes
//! nothing there any more).

use std::any::Any;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

use proxy_core::config::FieldUse::{Ignored, Used};
use proxy_core::config::{BuildCx, FieldUse, MessageFields, Rejected};
use proxy_core::dns_cache;
use proxy_core::extension::access_log::LogEntry;
use proxy_core::filter_state::FilterStateValue;
use proxy_core::format::LineFormat;
use proxy_core::hash::xxhash64;
use proxy_core::head::RequestHead;
use proxy_core::stream_info::StreamInfo;
use proxy_core::transport::{self, TransportNames};
use xds_api::envoy::extensions::filters::common::set_filter_state::v3 as proto;
use xds_api::envoy::extensions::filters::common::set_filter_state::v3::filter_state_value::{Key, Value};

const SHARED: &str = "filter state is not shared with connections to hosts: only NONE is available";

/// How the fields of the message are used.
pub const FIELDS: &[MessageFields] = &[(
    "envoy.extensions.filters.common.set_filter_state.v3.FilterStateValue",
    &[
        ("object_key", Used),
        ("factory_key", Used),
        ("format_string", Used),
        ("read_only", Ignored("Envoy 1.40 lets later values replace earlier ones all the same")),
        ("shared_with_upstream", FieldUse::Rejected(SHARED)),
        ("skip_if_empty", Used),
    ],
)];

/// What kind of object is made of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Text,
    /// Text that hash policies may look at.
    HashableText,
    Bool,
    Ip,
    /// An address with a port, for clusters of the type ORIGINAL_DST.
    Address,
    /// The name of the cluster that `tcp_proxy` connects to.
    Cluster,
    /// How many hits a request is, for the filter that has a service count them.
    Hits,
    /// The name of the host that a dynamic forward proxy goes to.
    Host,
    /// The port of a host that names none.
    Port,
    /// A name for the TLS connection to the host.
    Name,
    /// Names for it.
    Names,
}

impl Kind {
    fn of(factory: &str) -> Option<Self> {
        Some(match factory {
            "envoy.string" => Self::Text,
            "envoy.hashable_string" => Self::HashableText,
            "envoy.bool" => Self::Bool,
            "envoy.network.ip" => Self::Ip,
            "envoy.network.transport_socket.original_dst_address" => Self::Address,
            "envoy.tcp_proxy.cluster" => Self::Cluster,
            "envoy.ratelimit.hits_addend" => Self::Hits,
            dns_cache::DYNAMIC_HOST => Self::Host,
            dns_cache::DYNAMIC_PORT => Self::Port,
            transport::UPSTREAM_SERVER_NAME => Self::Name,
            transport::APPLICATION_PROTOCOLS | transport::UPSTREAM_SUBJECT_ALT_NAMES => Self::Names,
            _ => return None,
        })
    }

    /// The object's text, if an object can be made of `text`.
    fn read(self, text: String) -> Option<String> {
        match self {
            Self::Text | Self::HashableText | Self::Cluster | Self::Host | Self::Name | Self::Names => {
                Some(text)
            }
            Self::Bool => match text.to_ascii_lowercase().as_str() {
                "true" | "t" | "yes" | "y" | "1" => Some("true".into()),
                "false" | "f" | "no" | "n" | "0" => Some("false".into()),
                _ => None,
            },
            Self::Ip => text.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, 0).to_string()),
            Self::Hits | Self::Port => text.parse::<u32>().ok().map(|number| number.to_string()),
            Self::Address => text.parse::<SocketAddr>().ok().map(|address| address.to_string()),
        }
    }
}

/// An object in the filter state.
struct Object {
    kind: Kind,
    text: String,
}

impl FilterStateValue for Object {
    fn to_text(&self) -> Option<String> {
        Some(self.text.clone())
    }

    fn to_json(&self) -> Option<String> {
        match self.kind {
            Kind::Text | Kind::HashableText => serde_json::to_string(&self.text).ok(),
            Kind::Bool => Some(self.text.clone()),
            Kind::Ip
            | Kind::Address
            | Kind::Cluster
            | Kind::Hits
            | Kind::Host
            | Kind::Port
            | Kind::Name
            | Kind::Names => None,
        }
    }

    fn as_bool(&self) -> Option<bool> {
        (self.kind == Kind::Bool).then(|| self.text == "true")
    }

    fn as_number(&self) -> Option<u64> {
        matches!(self.kind, Kind::Hits | Kind::Port).then(|| self.text.parse().ok()).flatten()
    }

    fn hash(&self) -> Option<u64> {
        matches!(self.kind, Kind::HashableText | Kind::Address).then(|| xxhash64(self.text.as_bytes()))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// A value that is set when something happens.
pub struct StateValue {
    key: Box<str>,
    kind: Kind,
    format: LineFormat,
    skip_if_empty: bool,
}

impl StateValue {
    /// Builds from the message.
    pub fn build(proto: &proto::FilterStateValue, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        #[allow(deprecated, reason = "it is still sent, and means nothing")]
        let proto::FilterStateValue {
            factory_key,
            read_only: _,
            shared_with_upstream,
            skip_if_empty,
            key,
            value,
        } = proto;
        let Some(Key::ObjectKey(object_key)) = key.as_ref().filter(|Key::ObjectKey(key)| !key.is_empty())
        else {
            return Err(cx.at("object_key", |cx| cx.reject("value length must be at least 1 characters")));
        };
        cx.reject_if(*shared_with_upstream != 0, "shared_with_upstream", SHARED)?;
        let factory = if factory_key.is_empty() { object_key } else { factory_key };
        let Some(kind) = Kind::of(factory) else {
            return Err(cx.reject(format!("'{object_key}' does not have an object factory")));
        };
        let Some(Value::FormatString(format)) = value else {
            return Err(cx.at("format_string", |cx| cx.reject("value is required")));
        };
        let format = cx.at("format_string", |cx| LineFormat::build(format, cx))?;
        Ok(Self { key: object_key.as_str().into(), kind, format, skip_if_empty: *skip_if_empty })
    }

    /// Sets it in the stream's filter state, where an object can be made of the text.
    pub fn set(&self, request: Option<&RequestHead>, info: &mut StreamInfo) {
        let mut text = Vec::new();
        let entry = LogEntry { request, ..LogEntry::of(info) };
        self.format.render(&entry, &mut text);
        if text.is_empty() && self.skip_if_empty {
            return;
        }
        let text =
            String::from_utf8(text).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into());
        let Some(text) = self.kind.read(text) else { return };
        let value: Rc<dyn FilterStateValue> = match self.kind {
            Kind::Name => Rc::new(TransportNames([text.as_str().into()].into())),
            Kind::Names => Rc::new(TransportNames::listed(&text)),
            kind => Rc::new(Object { kind, text }),
        };
        info.filter_state.set(&self.key, value);
    }
}
