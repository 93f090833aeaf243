//! How the host of a request or connection must be labelled: as configured, and as filters say by metadata for balancing.

use std::borrow::Cow;

use proxy_core::stream_info::StreamInfo;
use proxy_core::upstream::{LB_NAMESPACE, Labels};

use super::cluster::Cluster;

/// The labels that are wanted, if `cluster` divides its hosts. Those of the stream win over those of its connection, and these
/// over the configured ones.
pub(crate) fn wanted<'c>(
    cluster: &Cluster,
    configured: Option<&'c Labels>,
    info: &StreamInfo,
) -> Option<Cow<'c, Labels>> {
    cluster.balancing.subsets()?;
    let metadata = [&info.connection.metadata, &info.metadata];
    let set = metadata.into_iter().filter_map(|metadata| metadata.namespace(LB_NAMESPACE));
    set.fold(configured.map(Cow::Borrowed), |labels, own| {
        Some(Cow::Owned(labels.map_or_else(|| Labels::new(own), |labels| labels.merged(own))))
    })
}
