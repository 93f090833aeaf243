//! What a state-of-the-world server was told: names in full with every request, the last good version, the last nonce.

use xds_api::envoy::service::discovery::v3::DiscoveryRequest;

use super::UpdateId;
use super::interest::Interest;
use super::subscription::Answer;
use crate::resource::TypeUrl;

/// State of one type on a state-of-the-world stream.
#[derive(Debug, Default)]
pub(super) struct StateOfWorld {
    /// The last version without rejected resources; survives streams.
    version: String,
    version_from: Option<UpdateId>,
    /// Of the latest answered response on this stream.
    nonce: String,
    nonce_from: Option<UpdateId>,
    told: Told,
}

/// What the requests of this stream have named.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Told {
    /// There was no request.
    #[default]
    Nothing,
    /// No name ever: the wildcard, in the legacy way.
    LegacyWildcard,
    /// Names; from now on an empty list means nothing, and everything is `*`.
    Names,
}

impl StateOfWorld {
    /// Nonces belong to a stream; the version does not.
    pub(super) fn stream_opened(&mut self) {
        self.nonce.clear();
        self.nonce_from = None;
        self.told = Told::Nothing;
    }

    pub(super) fn forget_version(&mut self) {
        self.version.clear();
    }

    /// A response was accepted whole. Verdicts may come out of order; the latest response counts.
    pub(super) fn accepted(&mut self, id: UpdateId, version: &str) {
        if self.version_from.is_none_or(|earlier| earlier < id) {
            version.clone_into(&mut self.version);
            self.version_from = Some(id);
        }
    }

    /// Whether a request would tell the server something. A wildcard asked for in the legacy way cannot be withdrawn, and
    /// nothing need not be told.
    pub(super) fn has_news(&self, interest: &Interest) -> bool {
        !interest.is_empty() || self.told == Told::Names
    }

    /// The answer, or the request that tells the interest.
    pub(super) fn request(
        &mut self,
        type_url: &TypeUrl,
        interest: &Interest,
        answer: Option<Answer>,
    ) -> DiscoveryRequest {
        let legacy = interest.is_empty() || (interest.is_only_wildcard() && self.told != Told::Names);
        let resource_names: Vec<String> =
            if legacy { Vec::new() } else { interest.names().map(str::to_owned).collect() };
        if !resource_names.is_empty() {
            self.told = Told::Names;
        } else if self.told == Told::Nothing {
            self.told = Told::LegacyWildcard;
        }
        let mut request = DiscoveryRequest {
            type_url: type_url.as_str().to_owned(),
            resource_names,
            ..DiscoveryRequest::default()
        };
        match answer {
            None => {
                request.version_info.clone_from(&self.version);
                request.response_nonce.clone_from(&self.nonce);
            }
            Some(answer) => {
                if self.nonce_from.is_none_or(|earlier| earlier < answer.id) {
                    self.nonce.clone_from(&answer.nonce);
                    self.nonce_from = Some(answer.id);
                }
                request.error_detail = answer.error_detail();
                request.response_nonce = answer.nonce;
                request.version_info =
                    if request.error_detail.is_some() { self.version.clone() } else { answer.version };
            }
        }
        request
    }
}
