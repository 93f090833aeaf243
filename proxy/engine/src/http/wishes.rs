//! Hosts that a request asks for by their address: what a filter chose, and what it lists for its cluster.
//!
//! Source: Envoy `docs/root/intro/arch_overview/upstream/load_balancing/override_host.rst`.

use proxy_core::upstream::Host;

use super::forward::Sending;
use super::stream::Stream;
use crate::upstream::cluster::Cluster;

impl Stream<'_> {
    /// Looks for the hosts that the request lists, if the cluster wants that. The one that a filter has chosen counts for the
    /// first attempt.
    pub(super) fn note_wishes(&mut self, cluster: &Cluster, sending: Sending) {
        let wishes = &mut self.info.upstream.wishes;
        if let Some(wishes) = wishes {
            match (sending, &wishes.listed) {
                (Sending::Retried, _) => wishes.chosen = None,
                (Sending::Resent, Some(listed)) => listed.step_back(),
                (Sending::First | Sending::Resent, _) => {}
            }
        }
        if let Some(hosts) = cluster.balancing.override_hosts()
            && wishes.as_ref().is_none_or(|wishes| wishes.listed.is_none())
        {
            let listed = hosts.queue(Some(&self.request), &self.info);
            self.info.upstream.wishes.get_or_insert_default().listed = Some(listed);
        }
    }

    /// Leaves the address of the host where the cluster wants it, unless it was a filter that chose it.
    pub(super) fn tell_host(&mut self, cluster: &Cluster, host: &Host) {
        let selected = cluster.balancing.override_hosts().and_then(|hosts| hosts.selected.as_ref());
        let Some(selected) = selected else { return };
        let chosen = self.info.upstream.wishes.as_ref().and_then(|wishes| wishes.chosen.as_ref());
        if chosen.is_none_or(|chosen| chosen.address.as_ref() != Some(&host.address)) {
            selected.set_text(&mut self.info.metadata, host.address.to_string());
        }
    }
}
