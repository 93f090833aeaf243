//! What the TCP proxy adds to what hosts are told of a client by the PROXY protocol (`proxy_protocol_tlvs`).
//!
//! Source: `envoy/extensions/filters/network/tcp_proxy/v3/tcp_proxy.proto`; the order of TLVs observed on Envoy 1.40.

use std::sync::Arc;

use proxy_core::config::{BuildCx, Rejected};
use proxy_core::proxy_protocol::Tlv;
use proxy_core::stream_info::StreamInfo;
use xds_api::envoy::extensions::filters::network::tcp_proxy::v3 as proto;
use xds_api::envoy::extensions::filters::network::tcp_proxy::v3::ProxyProtocolTlvMergePolicy as Policy;

use crate::upstream::added_tlvs::AddedTlvs;

/// TLVs, and what becomes of those that a proxy in front of us sent.
#[derive(Debug)]
pub(super) struct ToldTlvs {
    added: AddedTlvs,
    policy: Policy,
}

impl ToldTlvs {
    /// None if the configuration adds none.
    pub(super) fn build(proto: &proto::TcpProxy, cx: &mut BuildCx<'_>) -> Result<Option<Self>, Rejected> {
        let added = AddedTlvs::build("proxy_protocol_tlvs", &proto.proxy_protocol_tlvs, cx)?;
        let Ok(policy) = Policy::try_from(proto.proxy_protocol_tlv_merge_policy) else {
            return Err(cx.at("proxy_protocol_tlv_merge_policy", |cx| cx.reject("not a defined value")));
        };
        Ok((!added.is_empty()).then_some(Self { added, policy }))
    }

    /// The TLVs of a client whose connection is known as `info`.
    pub(super) fn of(&self, info: &StreamInfo) -> Arc<[Tlv]> {
        match &info.connection.proxied {
            Some(sent) if self.policy == Policy::AddIfAbsent => sent.clone(),
            sent => merge(self.policy, self.added.about(info), sent.as_deref().unwrap_or_default()).into(),
        }
    }
}

fn merge(policy: Policy, added: Vec<Tlv>, sent: &[Tlv]) -> Vec<Tlv> {
    match policy {
        Policy::AppendIfExistsOrAdd => sent.iter().cloned().chain(added).collect(),
        Policy::AddIfAbsent | Policy::OverwriteByTypeIfExistsOrAdd => {
            let others = sent.iter().filter(|tlv| added.iter().all(|one| one.kind != tlv.kind));
            let others: Vec<Tlv> = others.cloned().collect();
            added.into_iter().chain(others).collect()
        }
    }
}
