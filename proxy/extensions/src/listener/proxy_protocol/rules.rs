//! What becomes of TLVs: values in the connection's metadata, or all of them in one object of its filter state.
//!
//! Of rules for one type the last counts; of values for one key the first in metadata, the last in the object. Observed on Envoy 1.40.

use std::any::Any;
use std::collections::BTreeMap;
use std::rc::Rc;

use prost_types::{Struct, Value, value::Kind};
use proxy_core::config::{BuildCx, Rejected};
use proxy_core::filter_state::FilterStateValue;
use proxy_core::stream_info::ConnectionInfo;
use xds_api::envoy::extensions::filters::listener::proxy_protocol::v3::proxy_protocol as proto;
use xds_api::envoy::extensions::filters::listener::proxy_protocol::v3::proxy_protocol::TlvLocation;
use xds_api::envoy::extensions::filters::listener::proxy_protocol::v3::proxy_protocol::key_value_pair::ValueStringEncoding;

pub(super) const DEFAULT_NAMESPACE: &str = "envoy.filters.listener.proxy_protocol";
/// Key of the filter state.
const STATE: &str = "envoy.network.proxy_protocol.tlv";

/// All rules of a filter.
pub(super) struct Rules {
    by_type: BTreeMap<u8, Rule>,
    location: TlvLocation,
}

struct Rule {
    namespace: String,
    key: String,
    encoding: ValueStringEncoding,
}

impl Rules {
    pub(super) fn build(
        rules: Vec<proto::Rule>,
        location: i32,
        cx: &mut BuildCx<'_>,
    ) -> Result<Self, Rejected> {
        let by_type = cx.each("rules", rules, Rule::build)?.into_iter().collect();
        let Ok(location) = TlvLocation::try_from(location) else {
            return Err(cx.at("tlv_location", |cx| cx.reject("not a defined value")));
        };
        Ok(Self { by_type, location })
    }

    /// Puts those of `tlvs` that there are rules for where they belong.
    pub(super) fn apply(&self, tlvs: &[(u8, &[u8])], info: &mut ConnectionInfo) {
        let wanted = tlvs.iter().filter_map(|(kind, value)| Some((self.by_type.get(kind)?, *value)));
        match self.location {
            TlvLocation::DynamicMetadata => wanted.for_each(|(rule, value)| rule.to_metadata(value, info)),
            TlvLocation::FilterState => {
                let values: BTreeMap<String, String> =
                    wanted.map(|(rule, value)| (rule.key.clone(), rule.text(value))).collect();
                if !values.is_empty() {
                    info.filter_state.set(STATE, Rc::new(Values(values)));
                }
            }
        }
    }
}

impl Rule {
    fn build(proto: proto::Rule, cx: &mut BuildCx<'_>) -> Result<(u8, Self), Rejected> {
        let proto::Rule { tlv_type, on_tlv_present } = proto;
        let tlv_type = u8::try_from(tlv_type)
            .map_err(|_| cx.at("tlv_type", |cx| cx.reject("value must be less than 256")))?;
        if on_tlv_present.as_ref().is_some_and(|pair| pair.key.is_empty()) {
            return Err(cx.at("on_tlv_present", |cx| {
                cx.at("key", |cx| cx.reject("value length must be at least 1 characters"))
            }));
        }
        // As in Envoy a rule that does not say what to do has an empty key.
        let proto::KeyValuePair { metadata_namespace, key, value_string_encoding } =
            on_tlv_present.unwrap_or_default();
        let encoding = ValueStringEncoding::try_from(value_string_encoding).map_err(|_| {
            cx.at("on_tlv_present", |cx| cx.reject("value_string_encoding: not a defined value"))
        })?;
        let namespace = match metadata_namespace.is_empty() {
            true => DEFAULT_NAMESPACE.to_owned(),
            false => metadata_namespace,
        };
        Ok((tlv_type, Self { namespace, key, encoding }))
    }

    fn to_metadata(&self, value: &[u8], info: &mut ConnectionInfo) {
        let known = info.metadata.namespace(&self.namespace);
        if known.is_none_or(|known| !known.fields.contains_key(&self.key)) {
            let value = Value { kind: Some(Kind::StringValue(self.text(value))) };
            info.metadata.merge(&self.namespace, Struct { fields: [(self.key.clone(), value)].into() });
        }
    }

    fn text(&self, value: &[u8]) -> String {
        match self.encoding {
            ValueStringEncoding::Base64 => base64(value),
            ValueStringEncoding::Unspecified | ValueStringEncoding::SanitizedUtf8 => sanitized(value),
        }
    }
}

/// Values by key.
struct Values(BTreeMap<String, String>);

impl FilterStateValue for Values {
    fn to_text(&self) -> Option<String> {
        self.to_json()
    }

    fn to_json(&self) -> Option<String> {
        serde_json::to_string(&self.0).ok()
    }

    fn field(&self, name: &str) -> Option<String> {
        self.0.get(name).cloned()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// UTF-8 with every byte that is not part of it replaced by `!`, as Envoy does.
fn sanitized(value: &[u8]) -> String {
    let mut text = String::with_capacity(value.len());
    for chunk in value.utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().map(|_| '!'));
    }
    text
}

pub(super) fn base64(value: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(value.len().div_ceil(3) * 4);
    for group in value.chunks(3) {
        let byte = |index: usize| u32::from(group.get(index).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for index in 0..4 {
            let letter = ALPHABET.get((bits >> (18 - 6 * index) & 63) as usize).copied().unwrap_or(b'A');
            text.push(if index > group.len() { '=' } else { char::from(letter) });
        }
    }
    text
}
