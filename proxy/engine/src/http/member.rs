//! Which cluster a request goes to whose cluster is an aggregate.

use std::rc::Rc;

use proxy_core::upstream::LinearPick;

use super::forward::Sending;
use super::stream::Stream;
use crate::upstream::aggregate::Aggregate;
use crate::upstream::pool::{NoHost, WorkerCluster};

impl Stream<'_> {
    /// Chooses the cluster, which is the stream's member from now on, and its priority. A retry avoids priorities as its policy says, those of
    /// all clusters in a row.
    pub(super) fn choose_member(
        &mut self,
        cluster: &Rc<WorkerCluster>,
        aggregate: &Aggregate,
        sending: Sending,
    ) -> Result<LinearPick, NoHost> {
        self.member = None;
        let wishes = self.info.upstream.wishes.as_ref().filter(|_| sending != Sending::Retried);
        cluster.check_wish(wishes.and_then(|wishes| wishes.chosen.as_ref()))?;
        let shared = &self.cx.shared;
        let picked = {
            let priorities = cluster.priorities(aggregate, &shared.clusters);
            let loads = match (&mut self.tries, sending) {
                (Some(tries), Sending::Retried) => tries.loads(|tried| priorities.loads_without(tried)),
                _ => None,
            };
            priorities.pick(loads, shared.random.borrow_mut().u64(..))
        };
        let member = picked.as_ref().and_then(|pick| aggregate.member(pick, &shared.clusters));
        let Some(pick) = picked.filter(|_| member.is_some()) else { return Err(cluster.no_member()) };
        self.member = member;
        Ok(pick)
    }
}
