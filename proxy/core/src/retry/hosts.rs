//! Hosts and priorities that a retry avoids.

use std::sync::Arc;

use prost_types::{Any, Struct};
use xds_api::envoy::config::route::v3::retry_policy as proto;
use xds_api::envoy::extensions::retry::host::omit_host_metadata::v3::OmitHostMetadataConfig;
use xds_api::envoy::extensions::retry::priority::previous_priorities::v3::PreviousPrioritiesConfig;

use crate::config::{BuildCx, Rejected};
use crate::extension::decode;
use crate::upstream::Host;

const PREVIOUS_HOSTS: &str = "envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate";
const OMIT_CANARY_HOSTS: &str = "envoy.extensions.retry.host.omit_canary_hosts.v3.OmitCanaryHostsPredicate";
const OMIT_HOST_METADATA: &str = "envoy.extensions.retry.host.omit_host_metadata.v3.OmitHostMetadataConfig";
const PREVIOUS_PRIORITIES: &str =
    "envoy.extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig";

/// Where the metadata is that balancing looks at.
const LB_NAMESPACE: &str = "envoy.lb";

/// Which hosts a retry avoids.
#[derive(Debug)]
pub enum HostPredicate {
    /// Those that were tried (`previous_hosts`).
    Previous,
    /// Those that are canaries (`omit_canary_hosts`).
    Canary,
    /// Those whose metadata has all of these values (`omit_host_metadata`).
    Metadata(Struct),
}

impl HostPredicate {
    pub(super) fn build(proto: &proto::RetryHostPredicate, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let proto::RetryHostPredicate { name, config_type } = proto;
        let any = config_type.as_ref().map(|proto::retry_host_predicate::ConfigType::TypedConfig(any)| any);
        let (message, payload) = unpack(name, any, cx)?;
        match message.as_str() {
            PREVIOUS_HOSTS => Ok(Self::Previous),
            OMIT_CANARY_HOSTS => Ok(Self::Canary),
            OMIT_HOST_METADATA => {
                let config: OmitHostMetadataConfig = decode(&payload, cx)?;
                let metadata = config.metadata_match.unwrap_or_default();
                Ok(Self::Metadata(metadata.filter_metadata.get(LB_NAMESPACE).cloned().unwrap_or_default()))
            }
            _ => Err(cx.reject(format!("there is no retry host predicate of type '{message}'"))),
        }
    }

    /// Whether `host` is to be avoided by a request that tried these before.
    pub fn avoids(&self, host: &Arc<Host>, tried: &[Arc<Host>]) -> bool {
        match self {
            Self::Previous => tried.iter().any(|one| Arc::ptr_eq(one, host)),
            Self::Canary => host.is_canary(),
            Self::Metadata(wanted) if wanted.fields.is_empty() => false,
            Self::Metadata(wanted) => {
                let metadata = host.metadata();
                let Some(values) = metadata.namespace(LB_NAMESPACE) else { return false };
                wanted.fields.iter().all(|(key, value)| values.fields.get(key) == Some(value))
            }
        }
    }
}

/// A retry avoids priorities that were tried (`previous_priorities`).
#[derive(Clone, Copy, Debug)]
pub struct PreviousPriorities {
    /// Priorities tried are counted anew whenever so many more hosts were tried.
    pub update_frequency: usize,
}

impl PreviousPriorities {
    pub(super) fn build(proto: &proto::RetryPriority, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let proto::RetryPriority { name, config_type } = proto;
        let any = config_type.as_ref().map(|proto::retry_priority::ConfigType::TypedConfig(any)| any);
        let (message, payload) = unpack(name, any, cx)?;
        if message != PREVIOUS_PRIORITIES {
            return Err(cx.reject(format!("there is no retry priority of type '{message}'")));
        }
        let config: PreviousPrioritiesConfig = decode(&payload, cx)?;
        match usize::try_from(config.update_frequency) {
            Ok(frequency) if frequency > 0 => Ok(Self { update_frequency: frequency }),
            Ok(_) | Err(_) => Err(cx.at("update_frequency", |cx| cx.reject("value must be greater than 0"))),
        }
    }
}

/// The type and payload of the extension `name`.
fn unpack(name: &str, any: Option<&Any>, cx: &mut BuildCx<'_>) -> Result<(String, Vec<u8>), Rejected> {
    match any {
        Some(any) => cx.at("typed_config", |cx| cx.unpack(any)),
        None => Err(cx.reject(format!("the extension '{name}' needs a typed_config"))),
    }
}
