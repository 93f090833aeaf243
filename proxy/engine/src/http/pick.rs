//! Which host of its cluster a request goes to, and the answer where there is none.

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, StatusCode};
use proxy_core::headers::{X_ENVOY_DROP_OVERLOAD, X_ENVOY_OVERLOADED, X_ENVOY_UNCONDITIONAL_DROP_OVERLOAD};
use proxy_core::local_reply::LocalReply;
use proxy_core::response_flag::ResponseFlag;
use proxy_core::stream_error::Details;
use proxy_core::upstream::{Host, LinearPick};

use super::forward::Sending;
use super::stream::{Stream, StreamEnd, selected};
use crate::router::route::Action;
use crate::upstream::cluster::Cluster;
use crate::upstream::dynamic::Found;
use crate::upstream::labels;
use crate::upstream::pool::{NoHost, PickAgain, Wants, WorkerCluster};

impl Stream<'_> {
    /// What the request hashes to, if `cluster` balances by that. Cookies that are made up for it go to the client.
    pub(super) fn hash(&mut self, cluster: &Cluster) -> Option<u64> {
        if !cluster.balancing.is_hashing() {
            return None;
        }
        let mut set_cookies = Vec::new();
        let route = selected(self.table.as_ref(), self.matched);
        let of_route = route.and_then(|route| match route.action() {
            Action::Forward(forward) => Some(&forward.hash_policies),
            Action::Redirect(_) | Action::DirectResponse(_) | Action::NonForwarding => None,
        });
        let policies = cluster.balancing.hash_policies().or(of_route)?;
        let hash = policies.hash(&self.request, &self.info, Some(&mut set_cookies));
        if !set_cookies.is_empty() {
            self.set_cookies = Some(Box::new(set_cookies));
        }
        hash
    }

    /// Picks a host of `cluster`: of the priority that was chosen, where the route's cluster is an aggregate; the one that was `found`, where the
    /// request names it.
    pub(super) fn pick_host(
        &mut self,
        cluster: &Rc<WorkerCluster>,
        place: Option<&LinearPick>,
        hash: Option<u64>,
        sending: Sending,
        found: Option<Found>,
    ) -> Result<Arc<Host>, NoHost> {
        let route = selected(self.table.as_ref(), self.matched);
        let labels = labels::wanted(&cluster.cluster, route.and_then(|route| route.labels()), &self.info);
        let wishes = self.info.upstream.wishes.as_deref();
        let wants = Wants {
            hash,
            labels: labels.as_deref(),
            host: wishes.and_then(|wishes| wishes.chosen.as_ref()),
            listed: wishes.and_then(|wishes| wishes.listed.as_ref()),
            found: found.as_ref(),
        };
        let picked = match (&mut self.tries, sending, place) {
            (Some(tries), Sending::Retried, _) => {
                let loads = match place {
                    Some(place) => Some(place.loads.to_vec()),
                    None => tries.loads(|tried| cluster.hosts().loads_without(tried)).map(<[_]>::to_vec),
                };
                let random = &mut self.cx.shared.random.borrow_mut();
                let again = PickAgain {
                    avoids: &tries.avoids(),
                    attempts: tries.host_attempts(),
                    wants,
                    loads: loads.as_deref(),
                };
                cluster.pick_again(&self.info, &self.request, random, &again)
            }
            (_, _, Some(place)) => {
                let random = &mut self.cx.shared.random.borrow_mut();
                cluster.pick_member(wants, &place.loads, random).ok_or(NoHost::Unavailable)
            }
            _ => cluster.pick_for_request(
                &self.info,
                &self.request,
                wants,
                &mut self.cx.shared.random.borrow_mut(),
            ),
        };
        let host = picked?;
        self.tell_host(&cluster.cluster, &host);
        if let Some(tries) = &mut self.tries {
            let place = place.and_then(|place| u32::try_from(place.place).ok());
            tries.tries_host(&host, place.unwrap_or(host.priority()));
        }
        Ok(host)
    }

    /// The answer where the cluster is gone when the request is to be sent again.
    pub(super) fn no_host_left(&mut self) -> StreamEnd {
        self.no_host(NoHost::Unavailable)
    }

    /// The answer where the host that the request names is not known.
    pub(super) fn unknown_host(&mut self, details: Details) -> StreamEnd {
        self.info.flags.set(ResponseFlag::NoHealthyUpstream);
        self.charge(StatusCode::SERVICE_UNAVAILABLE);
        let reply = LocalReply::new(StatusCode::SERVICE_UNAVAILABLE, "no healthy upstream", details);
        self.route_reply(reply)
    }

    /// The answer where there is no host, or none that may be asked.
    pub(super) fn no_host(&mut self, none: NoHost) -> StreamEnd {
        let status = match none {
            NoHost::Missing(status) => status,
            NoHost::Unavailable | NoHost::Dropped | NoHost::DroppedAlways | NoHost::InMaintenance => {
                StatusCode::SERVICE_UNAVAILABLE
            }
        };
        let (flag, body, details, header) = match none {
            NoHost::Unavailable | NoHost::Missing(_) => {
                (ResponseFlag::NoHealthyUpstream, "no healthy upstream", "no_healthy_upstream", None)
            }
            NoHost::Dropped => {
                let header = Some(&*X_ENVOY_DROP_OVERLOAD);
                (ResponseFlag::DropOverload, "drop overload", "drop_overload", header)
            }
            NoHost::InMaintenance => {
                let header = Some(&*X_ENVOY_OVERLOADED);
                (ResponseFlag::UpstreamOverflow, "maintenance mode", "maintenance_mode", header)
            }
            NoHost::DroppedAlways => (
                ResponseFlag::UnconditionalDropOverload,
                "unconditional drop overload",
                "unconditional_drop_overload",
                Some(&*X_ENVOY_UNCONDITIONAL_DROP_OVERLOAD),
            ),
        };
        self.info.flags.set(flag);
        if header.is_some() {
            // What is dropped was never tried.
            self.info.upstream.attempts = 0;
        }
        self.charge(status);
        let body = Bytes::from_static(body.as_bytes());
        let mut reply = LocalReply::new(status, body, details);
        if let Some(header) = header.filter(|_| !self.router().suppress_envoy_headers) {
            reply.headers.insert(header, HeaderValue::from_static("true"));
        }
        self.route_reply(reply)
    }
}
