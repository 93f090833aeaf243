//! What the filter state of a stream says of the connection to its host: what TLS offers, asks for and is satisfied with.
//!
//! Such connections are not shared with streams that say otherwise.
//! Source: Envoy `docs/root/configuration/advanced/well_known_filter_state.rst`.

use std::any::Any;
use std::sync::Arc;

use crate::filter_state::FilterStateValue;
use crate::stream_info::StreamInfo;
use crate::text::Text;

/// Key of the protocols that are offered (ALPN) in place of those of the TLS context.
pub const APPLICATION_PROTOCOLS: &str = "envoy.network.application_protocols";
/// Key of the name that is asked for (SNI) in place of that of the TLS context.
pub const UPSTREAM_SERVER_NAME: &str = "envoy.network.upstream_server_name";
/// Key of the names of which a certificate must have one.
pub const UPSTREAM_SUBJECT_ALT_NAMES: &str = "envoy.network.upstream_subject_alt_names";

/// A value of one of these keys: a name, or several.
pub struct TransportNames(pub Arc<[Text]>);

impl TransportNames {
    /// Names with commas between them, and nothing else.
    pub fn listed(text: &str) -> Self {
        Self(text.split(',').map(|name| name.into()).collect())
    }
}

impl FilterStateValue for TransportNames {
    fn to_text(&self) -> Option<String> {
        None
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// What `key` has for a stream; nothing where that is empty.
pub fn names_of<'i>(info: &'i StreamInfo, key: &str) -> Option<&'i Arc<[Text]>> {
    let value: &TransportNames = info.filter_state(key)?.as_any().downcast_ref()?;
    Some(&value.0).filter(|names| names.iter().any(|name| !name.is_empty()))
}
