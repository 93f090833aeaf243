//! What a resource is to the transport: a type URL, a name, a version and bytes.
//!
//! State-of-the-world responses carry bare resources, so their names are read from the wire bytes: [`name_of`] walks the
//! top-level fields and never decodes the message. `decode_state_of_world` and `decode_delta` turn the resources of a
//! response into decoded ones, unwrapping `envoy.service.discovery.v3.Resource` (name, version, TTL, heartbeat).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
use prost_types::Any;
use xds_api::envoy::service::discovery::v3::{DeltaDiscoveryResponse, DiscoveryResponse, Resource};

use crate::protocol::{Limits, Variant};

/// The name that asks for every resource of a type.
pub const WILDCARD: &str = "*";

/// Characters of a foreign type URL that are shown in a message.
const MAX_SHOWN: usize = 256;

const WRAPPER: &str = "type.googleapis.com/envoy.service.discovery.v3.Resource";

/// The type URL of a resource, such as `type.googleapis.com/envoy.config.cluster.v3.Cluster`.
///
/// Cheap to clone: the known ones are constants, others share one allocation. Equality and order are those of the text.
#[derive(Clone)]
pub struct TypeUrl(Repr);

#[derive(Clone)]
enum Repr {
    Known(&'static str),
    Other(Arc<str>),
}

macro_rules! known {
    ($($(#[$doc:meta])* $name:ident = $message:literal;)*) => {
        impl TypeUrl {
            $($(#[$doc])* pub const $name: TypeUrl = TypeUrl(Repr::Known(concat!("type.googleapis.com/", $message)));)*

            const KNOWN: &'static [TypeUrl] = &[$(TypeUrl::$name),*];
        }
    };
}

known! {
    /// LDS.
    LISTENER = "envoy.config.listener.v3.Listener";
    /// RDS.
    ROUTE_CONFIGURATION = "envoy.config.route.v3.RouteConfiguration";
    /// SRDS.
    SCOPED_ROUTE_CONFIGURATION = "envoy.config.route.v3.ScopedRouteConfiguration";
    /// VHDS.
    VIRTUAL_HOST = "envoy.config.route.v3.VirtualHost";
    /// CDS.
    CLUSTER = "envoy.config.cluster.v3.Cluster";
    /// EDS.
    CLUSTER_LOAD_ASSIGNMENT = "envoy.config.endpoint.v3.ClusterLoadAssignment";
    /// SDS.
    SECRET = "envoy.extensions.transport_sockets.tls.v3.Secret";
    /// RTDS.
    RUNTIME = "envoy.service.runtime.v3.Runtime";
    /// ECDS.
    TYPED_EXTENSION_CONFIG = "envoy.config.core.v3.TypedExtensionConfig";
}

impl TypeUrl {
    /// The type URL with this text; one of the constants if it is known.
    pub fn new(text: &str) -> Self {
        Self::KNOWN
            .iter()
            .find(|known| known.as_str() == text)
            .cloned()
            .unwrap_or_else(|| Self(Repr::Other(text.into())))
    }

    /// The text, `type.googleapis.com/` included.
    pub fn as_str(&self) -> &str {
        match &self.0 {
            Repr::Known(text) => text,
            Repr::Other(text) => text,
        }
    }

    /// Whether a state-of-the-world response of this type lists all there is, so that what is missing is removed.
    ///
    /// True for listeners and clusters, as the protocol says, and for scoped routes, as Envoy does.
    pub fn lists_everything(&self) -> bool {
        [Self::LISTENER, Self::CLUSTER, Self::SCOPED_ROUTE_CONFIGURATION].contains(self)
    }

    /// How Envoy begins the message of a NACK for resources of this type that could not be applied.
    pub(crate) fn rejection_prefix(&self) -> &'static str {
        if *self == Self::CLUSTER {
            "Error adding/updating cluster(s) "
        } else if *self == Self::LISTENER {
            "Error adding/updating listener(s) "
        } else if *self == Self::SCOPED_ROUTE_CONFIGURATION {
            "Error adding/updating scoped route(s): "
        } else {
            ""
        }
    }

    /// What Envoy says about the second resource of a name.
    fn duplicate(&self, name: &str) -> String {
        if *self == Self::CLUSTER {
            format!("duplicate cluster {name} found")
        } else if *self == Self::LISTENER {
            format!("duplicate listener {name} found")
        } else if *self == Self::SCOPED_ROUTE_CONFIGURATION {
            format!("duplicate scoped route configuration '{name}' found")
        } else {
            format!("duplicate resource {name} found")
        }
    }
}

impl PartialEq for TypeUrl {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for TypeUrl {}

impl PartialOrd for TypeUrl {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for TypeUrl {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.as_str().cmp(other.as_str())
    }
}

impl Hash for TypeUrl {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}

impl PartialEq<str> for TypeUrl {
    fn eq(&self, other: &str) -> bool {
        self.as_str() == other
    }
}

impl From<&str> for TypeUrl {
    fn from(text: &str) -> Self {
        Self::new(text)
    }
}

impl fmt::Display for TypeUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for TypeUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

/// Reads the name of a resource from its bytes.
///
/// Every type of [`TypeUrl`]'s constants keeps its name in field 1. The last occurrence counts, as protobuf wants; a missing
/// field is the empty name.
///
/// # Errors
/// A text that says what is wrong: the type is unknown, the bytes are not a protobuf message, the name is not UTF-8.
pub fn name_of(type_url: &TypeUrl, any: &Any) -> Result<String, String> {
    const NAME_FIELD: u32 = 1;
    if !TypeUrl::KNOWN.contains(type_url) {
        return Err(format!("resources of type {type_url} have no known name field"));
    }
    let malformed = |error: prost::DecodeError| format!("malformed {type_url}: {error}");
    let mut bytes = any.value.as_slice();
    let mut name: &[u8] = &[];
    while !bytes.is_empty() {
        let (tag, wire_type) = decode_key(&mut bytes).map_err(malformed)?;
        if tag == NAME_FIELD && wire_type == WireType::LengthDelimited {
            let length = decode_varint(&mut bytes).map_err(malformed)?;
            let length = usize::try_from(length).ok().filter(|length| *length <= bytes.len());
            let Some((value, rest)) = length.and_then(|length| bytes.split_at_checked(length)) else {
                return Err(format!("malformed {type_url}: the name is longer than the message"));
            };
            (name, bytes) = (value, rest);
        } else {
            skip_field(wire_type, tag, &mut bytes, DecodeContext::default()).map_err(malformed)?;
        }
    }
    match std::str::from_utf8(name) {
        Ok(name) => Ok(name.to_owned()),
        Err(_) => Err(format!("malformed {type_url}: the name is not UTF-8")),
    }
}

/// A resource of a response, unwrapped.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Decoded {
    pub(crate) name: String,
    pub(crate) version: String,
    /// `None` for a heartbeat: the wrapper came without a resource.
    pub(crate) any: Option<Any>,
    pub(crate) ttl: Option<Duration>,
}

/// The resources of a response: those to consider, and those refused because their name was already taken.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct DecodedResponse {
    pub(crate) resources: Vec<Decoded>,
    pub(crate) duplicates: Vec<(String, String)>,
}

/// The resources of a state-of-the-world response, in its order.
///
/// Types that list everything refuse the second resource of a name and keep the first, as Envoy does; for the others the
/// last one wins.
///
/// # Errors
/// A text for the NACK: the response has to be rejected as a whole.
pub(crate) fn decode_state_of_world(
    response: DiscoveryResponse,
    limits: &Limits,
) -> Result<DecodedResponse, String> {
    let type_url = TypeUrl::new(&response.type_url);
    limits.check_count(response.resources.len())?;
    let mut out = DecodedResponse::default();
    let mut positions = BTreeMap::new();
    for any in response.resources {
        let decoded = if any.type_url == WRAPPER {
            let wrapper =
                Resource::decode(any.value.as_slice()).map_err(|e| format!("malformed {WRAPPER}: {e}"))?;
            unwrap(&type_url, Variant::StateOfTheWorld, wrapper, &response.version_info)?
        } else {
            check_type(&type_url, &any, Variant::StateOfTheWorld)?;
            let name = name_of(&type_url, &any)?;
            Decoded { name, version: response.version_info.clone(), any: Some(any), ttl: None }
        };
        limits.check_name(&decoded.name)?;
        match positions.get(&decoded.name).and_then(|position| out.resources.get_mut(*position)) {
            None => {
                positions.insert(decoded.name.clone(), out.resources.len());
                out.resources.push(decoded);
            }
            Some(_) if type_url.lists_everything() => {
                let reason = type_url.duplicate(&decoded.name);
                out.duplicates.push((decoded.name, reason));
            }
            Some(earlier) => *earlier = decoded,
        }
    }
    Ok(out)
}

/// The resources of a delta response and the names it removes, in its order.
///
/// # Errors
/// As for [`decode_state_of_world`]; a name that occurs twice, among the resources or the removed, rejects the response.
pub(crate) fn decode_delta(
    response: DeltaDiscoveryResponse,
    limits: &Limits,
) -> Result<(Vec<Decoded>, Vec<String>), String> {
    let type_url = TypeUrl::new(&response.type_url);
    limits.check_count(response.resources.len() + response.removed_resources.len())?;
    let mut names = BTreeSet::new();
    let mut resources = Vec::with_capacity(response.resources.len());
    for wrapper in response.resources {
        let decoded = unwrap(&type_url, Variant::Delta, wrapper, "")?;
        limits.check_name(&decoded.name)?;
        if !names.insert(decoded.name.clone()) {
            return Err(format!("duplicate name {} found among added/updated resources", decoded.name));
        }
        resources.push(decoded);
    }
    for name in &response.removed_resources {
        limits.check_name(name)?;
        if !names.insert(name.clone()) {
            return Err(format!("duplicate name {name} found in the union of added+removed resources"));
        }
    }
    Ok((resources, response.removed_resources))
}

fn unwrap(
    type_url: &TypeUrl,
    variant: Variant,
    wrapper: Resource,
    default_version: &str,
) -> Result<Decoded, String> {
    let name = match (&wrapper.resource, wrapper.name) {
        (Some(any), name) => {
            check_type(type_url, any, variant)?;
            if name.is_empty() { name_of(type_url, any)? } else { name }
        }
        (None, name) => name,
    };
    let ttl = wrapper
        .ttl
        .map(|ttl| Duration::try_from(ttl).map_err(|_| format!("{name}: invalid ttl")))
        .transpose()?;
    let version = if wrapper.version.is_empty() { default_version.to_owned() } else { wrapper.version };
    Ok(Decoded { name, version, any: wrapper.resource, ttl })
}

/// The type URL of a resource has to be that of its response; the wording is Envoy's, without its dump of the message.
fn check_type(type_url: &TypeUrl, any: &Any, variant: Variant) -> Result<(), String> {
    if *type_url == *any.type_url.as_str() {
        return Ok(());
    }
    let found = if any.type_url.is_empty() { "(none)" } else { any.type_url.as_str() };
    let found: String = found.chars().take(MAX_SHOWN).collect();
    Err(match variant {
        Variant::StateOfTheWorld => {
            format!("{found} does not match the message-wide type URL {type_url} in DiscoveryResponse")
        }
        Variant::Delta => format!(
            "type URL {found} embedded in an individual Any does not match the message-wide type URL {type_url} in \
             DeltaDiscoveryResponse"
        ),
    })
}

#[cfg(test)]
mod tests;
