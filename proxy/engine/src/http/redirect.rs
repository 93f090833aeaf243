//! Redirects of hosts that the proxy follows itself: the request begins anew, as if the client had sent it to the target.
//!
//! Source: Envoy `docs/root/intro/arch_overview/http/http_connection_management.rst` (internal redirects),
//! `source/common/router/router.cc`; observed on 1.40.

use std::rc::Rc;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, LOCATION};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use proxy_core::head::{Protocol, RequestHead, ResponseHead, Scheme};
use proxy_core::headers::X_ENVOY_ORIGINAL_URL;

use super::filter_chain::{Ending, Parts};
use super::stream::{Stream, StreamEnd, selected};
use crate::codec::h1::parse_url;
use crate::local::clock;
use crate::router::internal_redirect::{Followed, InternalRedirects, Redirection};
use crate::router::route::Action;

/// Why a redirect goes to the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kept {
    /// The request, or what is kept of it, is not complete, or nothing says where to.
    Incomplete,
    BadLocation,
    UnsafeScheme,
    TooMany,
    NoRoute,
    Predicate,
}

impl Stream<'_> {
    /// What becomes of the stream if the response head in `self.response` is a redirect that is followed.
    pub(super) fn follows_redirect(&mut self) -> Option<StreamEnd> {
        let table = self.table.clone();
        let policy = match selected(table.as_ref(), self.matched)?.action() {
            Action::Forward(forward) => forward.internal_redirects.as_ref()?,
            Action::Redirect(_) | Action::DirectResponse(_) | Action::NonForwarding => return None,
        };
        let response = self.response.take()?;
        let cluster = self.cluster.clone();
        let outcome = match policy.covers(response.status) {
            true => Some(self.redirect(policy, &response)),
            false => None,
        };
        let status = response.status.as_u16();
        self.response = Some(response);
        let stats = cluster.as_ref().map(|cluster| cluster.cluster.stats.traffic.here());
        match outcome? {
            Ok(body) => {
                // Who looks at this stream from now on sees where it went.
                self.match_route();
                if let Some(stats) = stats {
                    stats.upstream_internal_redirect_succeeded_total.inc();
                }
                self.info.response_code = Some(status);
                self.info.details = Some("internal_redirect".into());
                Some(StreamEnd::Redirected(body))
            }
            Err(kept) => {
                if let Some(stats) = stats {
                    stats.upstream_internal_redirect_failed_total.inc();
                }
                self.count_kept(kept);
                None
            }
        }
    }

    fn count_kept(&self, kept: Kept) {
        let stats = self.cx.router_stats.here();
        match kept {
            Kept::Incomplete => {}
            Kept::BadLocation => stats.passthrough_internal_redirect_bad_location.inc(),
            Kept::UnsafeScheme => stats.passthrough_internal_redirect_unsafe_scheme.inc(),
            Kept::TooMany => stats.passthrough_internal_redirect_too_many_redirects.inc(),
            Kept::NoRoute => stats.passthrough_internal_redirect_no_route.inc(),
            Kept::Predicate => stats.passthrough_internal_redirect_predicate.inc(),
        }
    }

    /// Makes the request one to the target of `response`, and says what its body is.
    fn redirect(&mut self, policy: &InternalRedirects, response: &ResponseHead) -> Result<Bytes, Kept> {
        let location = response.headers.get(LOCATION);
        let body = self.tries.as_mut().and_then(|tries| tries.take_kept());
        let (Some(location), Some(body)) =
            (location, body.filter(|_| self.request_done && !self.is_tunnel()))
        else {
            return Err(Kept::Incomplete);
        };
        let url = Bytes::copy_from_slice(location.as_bytes());
        let (target_scheme, authority, path) = parse_url(&url).ok_or(Kept::BadLocation)?;
        // (What came over a plain connection came over HTTP, whatever it says.)
        let is_https = self.cx.info.secure && self.request.scheme == Scheme::Https;
        let scheme = if is_https { Scheme::Https } else { Scheme::Http };
        if !policy.cross_scheme && scheme != target_scheme {
            return Err(Kept::UnsafeScheme);
        }
        let mut followed = Followed::of(&self.info);
        if followed.count >= policy.max {
            return Err(Kept::TooMany);
        }
        let path = path.slice_of(path.split('#').next().unwrap_or_default());
        let headers = copied(policy, &self.request, response);
        let target = RequestHead { scheme: target_scheme, authority, path, headers, ..self.request.clone() };
        let original = std::mem::replace(&mut self.request, target);
        let agreed = self.check_target(policy, (scheme, target_scheme), &mut followed);
        self.info.filter_state.set(Followed::KEY, Rc::new(followed));
        if let Err(kept) = agreed {
            self.request = original;
            return Err(kept);
        }
        self.note_original_url(scheme, &original);
        let becomes_get = response.status == StatusCode::SEE_OTHER
            && self.request.method != Method::GET
            && self.request.method != Method::HEAD;
        if becomes_get {
            self.request.method = Method::GET;
            self.request.headers.remove(CONTENT_LENGTH);
            return Ok(Bytes::new());
        }
        Ok(body)
    }

    /// Whether the request as it is now has a route that it may go to. If so, it is one more that was `followed`.
    fn check_target(
        &self,
        policy: &InternalRedirects,
        (scheme, target_scheme): (Scheme, Scheme),
        followed: &mut Followed,
    ) -> Result<(), Kept> {
        let Some((table, route)) = self.table.as_ref().zip(self.route()) else { return Err(Kept::NoRoute) };
        let runtime = &self.cx.shared.env.runtime;
        let target = table.route(&self.request, &self.info, runtime, self.random);
        let target = target.and_then(|target| table.selected(target)).ok_or(Kept::NoRoute)?;
        let to = Redirection { from: &route.entry().name, to: &target.entry().name, scheme, target_scheme };
        if !policy.agrees(to, &self.info, followed) {
            return Err(Kept::Predicate);
        }
        followed.count += 1;
        Ok(())
    }

    fn note_original_url(&mut self, scheme: Scheme, original: &RequestHead) {
        let url = format!("{}://{}{}", scheme.as_str(), original.authority, original.path);
        if let Ok(url) = HeaderValue::try_from(url) {
            self.request.headers.insert(&*X_ENVOY_ORIGINAL_URL, url);
        }
    }

    /// Ends this stream, and begins one with the request as it is now and with `body`.
    #[cold]
    pub(super) fn begin_again(&mut self, protocol: Protocol, body: Bytes) {
        let mut next = Stream::new(self.cx, clock::now(), self.request.clone());
        next.is_redirected = true;
        next.is_internal = self.is_internal;
        next.begin(protocol, true);
        next.info.start = self.info.start;
        next.info.start_time = self.info.start_time;
        next.info.remote = self.info.remote.clone();
        // (It is received again, as in Envoy.)
        next.info.bytes_received = self.info.bytes_received + body.len() as u64;
        next.info.filter_state.set(Followed::KEY, Rc::new(Followed::of(&self.info)));
        let end = Some(Ending::Stream);
        next.gathered = Some(Box::new(Parts { head: true, data: body, end }));
        *self = next;
    }
}

/// The headers of the request with what the policy has copied from the response.
fn copied(policy: &InternalRedirects, request: &RequestHead, response: &ResponseHead) -> HeaderMap {
    let mut headers = request.headers.clone();
    for name in &policy.headers_to_copy {
        headers.remove(name);
        for value in response.headers.get_all(name) {
            headers.append(name, value.clone());
        }
    }
    headers
}
