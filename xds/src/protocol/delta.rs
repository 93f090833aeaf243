//! What a delta server was told: the names subscribed on this stream, so that requests hold only differences.

use std::collections::{BTreeSet, HashMap};

use xds_api::envoy::service::discovery::v3::DeltaDiscoveryRequest;

use super::interest::Interest;
use super::subscription::Answer;
use crate::resource::TypeUrl;

/// State of one type on a delta stream.
#[derive(Debug, Default)]
pub(super) struct Delta {
    /// What the server believes to be subscribed; `None` before the first request of the stream.
    told: Option<BTreeSet<String>>,
    /// Names dropped and wanted again since: the server has to send them once more.
    again: BTreeSet<String>,
}

impl Delta {
    pub(super) fn stream_opened(&mut self) {
        self.told = None;
        self.again.clear();
    }

    /// A name entered the interest.
    pub(super) fn wanted_again(&mut self, name: &str) {
        if self.told.as_ref().is_some_and(|told| told.contains(name)) {
            self.again.insert(name.to_owned());
        }
    }

    /// Whether the server does not know the interest yet.
    pub(super) fn has_news(&self, interest: &Interest) -> bool {
        match &self.told {
            None => !interest.is_empty(),
            Some(told) => {
                self.again.iter().any(|name| interest.contains(name))
                    || !interest.names().eq(told.iter().map(String::as_str))
            }
        }
    }

    /// The acknowledgement or rejection of a response: a nonce and nothing else.
    pub(super) fn answer(type_url: &TypeUrl, answer: &Answer) -> DeltaDiscoveryRequest {
        DeltaDiscoveryRequest {
            type_url: type_url.as_str().to_owned(),
            response_nonce: answer.nonce.clone(),
            error_detail: answer.error_detail(),
            ..DeltaDiscoveryRequest::default()
        }
    }

    /// The request that tells the interest: all of it, and `held` (name and version), on a new stream.
    pub(super) fn request(
        &mut self,
        type_url: &TypeUrl,
        interest: &Interest,
        held: impl Iterator<Item = (String, String)>,
    ) -> DeltaDiscoveryRequest {
        let wanted: BTreeSet<String> = interest.names().map(str::to_owned).collect();
        let mut request = DeltaDiscoveryRequest {
            type_url: type_url.as_str().to_owned(),
            ..DeltaDiscoveryRequest::default()
        };
        match &self.told {
            None => {
                request.initial_resource_versions = held.collect::<HashMap<_, _>>();
                // The wildcard alone is asked for in the legacy way, which every server understands.
                if !interest.is_only_wildcard() {
                    request.resource_names_subscribe = wanted.iter().cloned().collect();
                }
            }
            Some(told) => {
                let new = |name: &&String| !told.contains(*name) || self.again.contains(*name);
                request.resource_names_subscribe = wanted.iter().filter(new).cloned().collect();
                request.resource_names_unsubscribe = told.difference(&wanted).cloned().collect();
            }
        }
        self.again.clear();
        self.told = Some(wanted);
        request
    }
}
