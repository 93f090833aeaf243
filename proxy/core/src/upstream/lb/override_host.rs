//! The hosts that requests list, and those of another policy where none of them is there.
//!
//! Health does not count for a host that is listed. Source: Envoy `override_host.proto`.

use std::sync::Arc;

use super::{LoadBalancer, PickCx};
use crate::upstream::{Host, HostSet};

/// Takes the hosts that a request lists, one for each attempt.
pub struct OverrideBalancer {
    fallback: Box<dyn LoadBalancer>,
}

impl OverrideBalancer {
    /// A balancer that picks by `fallback` what no list says.
    pub fn new(fallback: Box<dyn LoadBalancer>) -> Self {
        Self { fallback }
    }
}

impl LoadBalancer for OverrideBalancer {
    fn pick(&mut self, hosts: &HostSet, cx: &mut PickCx<'_>) -> Option<Arc<Host>> {
        match cx.listed.and_then(|listed| listed.take(hosts)) {
            Some(host) => Some(host.clone()),
            None => self.fallback.pick(hosts, cx),
        }
    }
}

#[cfg(test)]
mod tests;
