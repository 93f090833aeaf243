//! Subsets of hosts, as clusters ask for them: `lb_subset_config` and the extension.
//!
//! Source: `envoy/config/cluster/v3/cluster.proto`, `envoy/extensions/load_balancing_policies/subset/v3/subset.proto`.

use proxy_core::config::{BuildCx, Rejected};
use proxy_core::upstream::{
    Labels, SelectorFallback, SubsetFallback, SubsetSelector, SubsetSettings, SubsetWeights,
};
use xds_api::envoy::config::cluster::v3::cluster::LbSubsetConfig;
use xds_api::envoy::config::cluster::v3::cluster::lb_subset_config::lb_subset_selector::LbSubsetSelectorFallbackPolicy as OfSelector;
use xds_api::envoy::config::cluster::v3::cluster::lb_subset_config::{
    LbSubsetFallbackPolicy as Fallback, LbSubsetMetadataFallbackPolicy as OfMetadata, LbSubsetSelector,
};
use xds_api::envoy::extensions::load_balancing_policies::subset::v3::Subset;

pub(super) fn legacy(proto: &LbSubsetConfig, cx: &mut BuildCx<'_>) -> Result<SubsetSettings, Rejected> {
    let LbSubsetConfig {
        fallback_policy,
        default_subset,
        subset_selectors,
        locality_weight_aware,
        scale_locality_weight,
        panic_mode_any,
        list_as_any,
        metadata_fallback_policy,
    } = proto;
    let fallback = fallback(*fallback_policy, cx);
    let metadata_fallback_list = fallback_list(*metadata_fallback_policy, cx);
    let selectors = cx.each("subset_selectors", subset_selectors, selector);
    Ok(SubsetSettings {
        fallback: fallback?,
        default_subset: default_subset.as_ref().map(Labels::new).unwrap_or_default(),
        selectors: selectors?.into(),
        locality_weights: match (locality_weight_aware, scale_locality_weight) {
            (false, _) => SubsetWeights::Ignored,
            (true, false) => SubsetWeights::Kept,
            (true, true) => SubsetWeights::Scaled,
        },
        panic_mode_any: *panic_mode_any,
        list_as_any: *list_as_any,
        metadata_fallback_list: metadata_fallback_list?,
        allow_redundant_keys: false,
    })
}

/// The extension without its `subset_lb_policy`.
pub(super) fn typed(proto: &Subset, cx: &mut BuildCx<'_>) -> Result<SubsetSettings, Rejected> {
    let selectors = proto.subset_selectors.iter().map(|selector| LbSubsetSelector {
        keys: selector.keys.clone(),
        single_host_per_subset: selector.single_host_per_subset,
        fallback_policy: selector.fallback_policy,
        fallback_keys_subset: selector.fallback_keys_subset.clone(),
    });
    // (The same message, but for one field.)
    let config = LbSubsetConfig {
        fallback_policy: proto.fallback_policy,
        default_subset: proto.default_subset.clone(),
        subset_selectors: selectors.collect(),
        locality_weight_aware: proto.locality_weight_aware,
        scale_locality_weight: proto.scale_locality_weight,
        panic_mode_any: proto.panic_mode_any,
        list_as_any: proto.list_as_any,
        metadata_fallback_policy: proto.metadata_fallback_policy,
    };
    Ok(SubsetSettings { allow_redundant_keys: proto.allow_redundant_keys, ..legacy(&config, cx)? })
}

fn fallback(policy: i32, cx: &mut BuildCx<'_>) -> Result<SubsetFallback, Rejected> {
    match Fallback::try_from(policy) {
        Ok(Fallback::NoFallback) => Ok(SubsetFallback::Nobody),
        Ok(Fallback::AnyEndpoint) => Ok(SubsetFallback::Any),
        Ok(Fallback::DefaultSubset) => Ok(SubsetFallback::Default),
        Err(_) => Err(cx.at("fallback_policy", undefined)),
    }
}

fn fallback_list(policy: i32, cx: &mut BuildCx<'_>) -> Result<bool, Rejected> {
    match OfMetadata::try_from(policy) {
        Ok(OfMetadata::MetadataNoFallback) => Ok(false),
        Ok(OfMetadata::FallbackList) => Ok(true),
        Err(_) => Err(cx.at("metadata_fallback_policy", undefined)),
    }
}

fn undefined(cx: &mut BuildCx<'_>) -> Rejected {
    cx.reject("value must be one of the defined enum values")
}

fn selector(proto: &LbSubsetSelector, cx: &mut BuildCx<'_>) -> Result<SubsetSelector, Rejected> {
    let keys = sorted(&proto.keys);
    let fewer = sorted(&proto.fallback_keys_subset);
    let at_keys = |reason: &str, cx: &mut BuildCx<'_>| cx.at("fallback_keys_subset", |cx| cx.reject(reason));
    let fallback = match OfSelector::try_from(proto.fallback_policy) {
        Err(_) => return Err(cx.at("fallback_policy", undefined)),
        Ok(OfSelector::KeysSubset) if fewer.is_empty() => {
            return Err(at_keys("fallback_keys_subset cannot be empty", cx));
        }
        Ok(OfSelector::KeysSubset) if !fewer.iter().all(|key| keys.contains(key)) => {
            return Err(at_keys("fallback_keys_subset must be a subset of selector keys", cx));
        }
        Ok(OfSelector::KeysSubset) if fewer.len() == keys.len() => {
            return Err(at_keys("fallback_keys_subset cannot be equal to keys", cx));
        }
        Ok(OfSelector::KeysSubset) => SelectorFallback::Keys(fewer),
        Ok(_) if !fewer.is_empty() => {
            return Err(at_keys("fallback_keys_subset can be set only for KEYS_SUBSET fallback_policy", cx));
        }
        Ok(OfSelector::NotDefined) => SelectorFallback::OfCluster,
        Ok(OfSelector::NoFallback) => SelectorFallback::To(SubsetFallback::Nobody),
        Ok(OfSelector::AnyEndpoint) => SelectorFallback::To(SubsetFallback::Any),
        Ok(OfSelector::DefaultSubset) => SelectorFallback::To(SubsetFallback::Default),
    };
    Ok(SubsetSelector { keys, fallback, single_host: proto.single_host_per_subset })
}

/// Each key once, in order.
fn sorted(keys: &[String]) -> Box<[Box<str>]> {
    let mut keys: Vec<Box<str>> = keys.iter().map(|key| key.as_str().into()).collect();
    keys.sort_unstable();
    keys.dedup();
    keys.into()
}
