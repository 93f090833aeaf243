//! Hosts that a request asks for by their address: one that a filter knows it must go to, and those that it lists for a cluster
//! that looks for such a list.
//!
//! Source: Envoy `docs/root/intro/arch_overview/upstream/load_balancing/override_host.rst`, `override_host.proto`.

use std::cell::Cell;
use std::sync::Arc;

use http::StatusCode;
use smallvec::SmallVec;

use super::{Host, HostSet};
use crate::address::Address;
use crate::head::RequestHead;
use crate::matcher::RequestHeader;
use crate::metadata::MetadataPath;
use crate::stream_info::StreamInfo;

/// What a request asks for.
#[derive(Debug, Default)]
pub struct HostWishes {
    /// The host that a filter has chosen. It counts for the first attempt.
    pub chosen: Option<HostWish>,
    /// The hosts that the request lists, once a cluster has looked for them.
    pub listed: Option<HostQueue>,
}

/// The host that a filter has chosen for a request.
#[derive(Debug)]
pub struct HostWish {
    /// Its address; `None` where what was asked for is none, so that no host has it.
    pub address: Option<Address>,
    /// What it is answered when it cannot go there; `None` if another host will do.
    pub strict: Option<StrictHost>,
}

/// The answer where the only host that will do is not to be had.
#[derive(Clone, Copy, Debug)]
pub struct StrictHost {
    /// The status if the cluster has no such host; 503 if that is unwell.
    pub status_if_missing: StatusCode,
}

/// Where a cluster looks for the hosts that a request lists, and where it says which one it took.
#[derive(Debug)]
pub struct OverrideHosts {
    /// Where they are listed, all that is there being taken.
    pub sources: Box<[OverrideSource]>,
    /// Where the address of the host is left.
    pub selected: Option<MetadataPath>,
}

/// Where hosts are listed, by address and separated by commas.
#[derive(Debug)]
pub enum OverrideSource {
    /// In the first value of a header.
    Header(RequestHeader),
    /// In metadata of the stream, or connection if nothing else is known of it.
    Metadata(MetadataPath),
}

impl OverrideHosts {
    /// What a request, or a connection that carries none, lists.
    pub fn queue(&self, request: Option<&RequestHead>, info: &StreamInfo) -> HostQueue {
        let mut addresses = SmallVec::new();
        for source in &self.sources {
            match source {
                OverrideSource::Header(RequestHeader::Named(name)) => {
                    let value = request.and_then(|request| request.headers.get(name)?.to_str().ok());
                    addresses.extend(value.into_iter().flat_map(addresses_in));
                }
                OverrideSource::Header(other) => {
                    let value = request.and_then(|request| other.in_request(request));
                    let value = value.as_deref().and_then(|value| std::str::from_utf8(value).ok());
                    addresses.extend(value.into_iter().flat_map(addresses_in));
                }
                OverrideSource::Metadata(MetadataPath { namespace, path }) => {
                    let value = info.dynamic_metadata(namespace, path).and_then(|value| value.kind.as_ref());
                    if let Some(prost_types::value::Kind::StringValue(text)) = value {
                        addresses.extend(addresses_in(text));
                    }
                }
            }
        }
        HostQueue { addresses, ..HostQueue::default() }
    }
}

/// The addresses of a list. What is none is that of no host.
fn addresses_in(text: &str) -> impl Iterator<Item = Address> {
    text.split(',').filter_map(|one| Address::parse(one.trim_ascii()))
}

/// Hosts to try one after the other, each once.
#[derive(Debug, Default)]
pub struct HostQueue {
    addresses: SmallVec<[Address; 1]>,
    next: Cell<usize>,
    /// Whether the last pick found one of them.
    found: Cell<bool>,
}

impl HostQueue {
    /// The next one that is among `hosts`.
    pub(super) fn take<'h>(&self, hosts: &'h HostSet) -> Option<&'h Arc<Host>> {
        let left = self.addresses.iter().enumerate().skip(self.next.get());
        let found = left.into_iter().find_map(|(index, address)| Some((index, hosts.at(address)?)));
        self.next.set(found.map_or(self.addresses.len(), |(index, _)| index + 1));
        self.found.set(found.is_some());
        found.map(|(_, host)| host)
    }

    /// Whether the last pick found one of them.
    pub fn has_found(&self) -> bool {
        self.found.get()
    }

    /// Whether none is left.
    pub fn is_done(&self) -> bool {
        self.next.get() >= self.addresses.len()
    }

    /// The host that was taken last had no part in what went wrong: it is the next one again.
    pub fn step_back(&self) {
        if self.found.get() {
            self.next.set(self.next.get().saturating_sub(1));
        }
    }
}
