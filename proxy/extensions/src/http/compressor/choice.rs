//! Which encoding a response gets, of those that the client accepts and the compressors of its chain offer.
//!
//! All compressors of a chain decide once together: the first that sees the response does it for all of them.
//! Source: Envoy `docs/root/configuration/http/http_filters/compressor_filter.rst`; details observed on 1.40.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::sync::Arc;

use http::HeaderMap;
use proxy_core::filter_state::FilterStateValue;

use super::Config;

/// Where the compressors of a stream find each other.
pub(super) const KEY: &str = "compressors";

/// The compressors of a stream, in the order of their chain.
#[derive(Default)]
pub(super) struct Offers {
    offers: RefCell<Vec<(Arc<Config>, &'static str)>>,
    decision: Cell<Option<Decision>>,
}

impl FilterStateValue for Offers {
    fn to_text(&self) -> Option<String> {
        None
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// What was decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// The client named this one.
    Named(&'static str),
    /// The client takes any.
    Any(&'static str),
    /// The client wants it as it is.
    Identity,
    /// The client accepts none that there is.
    NotValid,
}

impl Decision {
    /// The encoding, if there is one.
    pub(super) fn encoding(self) -> Option<&'static str> {
        match self {
            Self::Named(encoding) | Self::Any(encoding) => Some(encoding),
            Self::Identity | Self::NotValid => None,
        }
    }
}

impl Offers {
    pub(super) fn add(&self, config: &Arc<Config>, encoding: &'static str) {
        self.offers.borrow_mut().push((config.clone(), encoding));
    }

    /// What the client gets who accepts this.
    pub(super) fn decide(&self, accepted: &str, response: &HeaderMap, choose_first: bool) -> Decision {
        if let Some(decision) = self.decision.get() {
            return decision;
        }
        let mut offered: Vec<&'static str> = Vec::new();
        for (config, encoding) in self.offers.borrow().iter() {
            if config.response.allows_type(response) && !offered.contains(encoding) {
                offered.push(encoding);
            }
        }
        let decision = choose(accepted, offered, choose_first);
        self.decision.set(Some(decision));
        decision
    }
}

/// The best of `offered`, which are in order of preference. `later_wins`: of two that the client likes as much, the one that it
/// names last.
fn choose(accepted: &str, mut offered: Vec<&'static str>, later_wins: bool) -> Decision {
    let mut wishes: Vec<(&str, f32)> = Vec::new();
    for token in accepted.split(',').filter(|token| !token.is_empty()) {
        let Some(wish) = wish(token) else { continue };
        wishes.push(wish);
        if wish.1 == 0.0 {
            offered.retain(|encoding| *encoding != wish.0);
        }
    }
    let mut best = (Decision::NotValid, 0.0);
    if offered.is_empty() {
        return best.0;
    }
    for (name, quality) in wishes {
        let named = offered.iter().find(|encoding| **encoding == name);
        let decision = match (named, name) {
            (Some(encoding), _) => Decision::Named(encoding),
            (None, "identity") => Decision::Identity,
            (None, "*") => Decision::Any(offered[0]),
            (None, _) => continue,
        };
        if quality > best.1 || (later_wins && named.is_some() && quality == best.1 && quality > 0.0) {
            best = (decision, quality);
        }
    }
    best.0
}

/// One element of `accept-encoding`: a name and how much it is liked. None if the latter is no number.
fn wish(token: &str) -> Option<(&str, f32)> {
    let Some((name, parameters)) = token.split_once(';') else { return Some((token.trim(), 1.0)) };
    let quality = match parameters.split_once('=') {
        Some((key, value)) if key.trim().eq_ignore_ascii_case("q") => value.trim().parse().ok()?,
        _ => 1.0,
    };
    Some((name.trim(), quality))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What Envoy 1.40 does with brotli, zstd and gzip in a chain.
    #[test]
    fn encodings_are_chosen_as_in_envoy() {
        use Decision::{Any, Identity, Named, NotValid};
        for (accepted, first, later) in [
            ("gzip", Named("gzip"), Named("gzip")),
            ("gzip, br", Named("gzip"), Named("br")),
            ("br, gzip", Named("br"), Named("gzip")),
            ("*", Any("br"), Any("br")),
            ("identity, gzip", Identity, Named("gzip")),
            ("gzip, identity", Named("gzip"), Named("gzip")),
            ("gzip, *", Named("gzip"), Named("gzip")),
            ("*, gzip", Any("br"), Named("gzip")),
            ("gzip;q=0.5, br;q=0.4", Named("gzip"), Named("gzip")),
            ("gzip;q=0, *", Any("br"), Any("br")),
            ("GZIP", NotValid, NotValid),
            ("deflate", NotValid, NotValid),
            ("", NotValid, NotValid),
            ("gzip;q=x, br;q=0.1", Named("br"), Named("br")),
            ("zstd;q=0.9,*;q=0.9", Named("zstd"), Named("zstd")),
            ("identity;q=0.5, *;q=0.1", Identity, Identity),
            ("gzip;v=1;q=0.2, br;q=0.5", Named("gzip"), Named("gzip")),
            ("br;q=0, zstd;q=0, gzip;q=0, *", NotValid, NotValid),
        ] {
            let offered = || vec!["br", "zstd", "gzip"];
            assert_eq!(choose(accepted, offered(), false), first, "{accepted}");
            assert_eq!(choose(accepted, offered(), true), later, "{accepted}, the later wins");
        }
    }
}
