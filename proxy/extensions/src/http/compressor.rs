//! `envoy.filters.http.compressor`: compresses responses for clients that accept it, and requests for hosts.
//!
//! Statistics are `<stat_prefix>.compressor.<library name>.<library>.*`, those of requests with `request.`, those of responses with
//! `response.` where `response_direction_config` is set. Bodies come out in the pieces they came in, each flushed.
//! Upgrades and answers to CONNECT are left alone.
//! Source: Envoy `docs/root/configuration/http/http_filters/compressor_filter.rst`; details observed on 1.40.

mod choice;
mod config;
pub mod fields;
mod library;
#[cfg(test)]
mod tests;

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{
    ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, ETAG, HeaderName, VARY,
};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use proxy_core::config::{BuildCx, Rejected};
use proxy_core::extension::http_filter::{
    DataStep, HeadersStep, HttpFilter, HttpFilterExtension, Phases, StreamCx,
};
use proxy_core::extension::{Descriptor, SecurityPosture, Status};
use proxy_core::head::ResponseHead;
use proxy_core::local_reply::LocalReply;
use proxy_core::stream_info::StreamInfo;
use xds_api::envoy::extensions::filters::http::compressor::v3 as proto;

use choice::{Decision, Offers};
use config::Direction;
pub use config::{Config, RouteConfig};
pub use fields::FIELDS;
use library::{Encoder, Library};

const STATUS: HeaderName = HeaderName::from_static("x-envoy-compression-status");

proxy_core::stats! {
    /// What was compressed of one direction.
    pub sharded struct DirectionStats {
        /// Messages compressed.
        counter compressed,
        /// Messages left alone.
        counter not_compressed,
        /// Bytes before.
        counter total_uncompressed_bytes,
        /// Bytes after.
        counter total_compressed_bytes,
        /// Messages that were too short.
        counter content_length_too_small,
    }

    /// Why responses were compressed or not.
    pub sharded struct ResponseStats {
        /// The client said nothing of encodings.
        counter no_accept_header,
        /// The client wants it as it is.
        counter header_identity,
        /// The client named this encoding, and it was chosen.
        counter header_compressor_used,
        /// Another encoding was chosen.
        counter header_compressor_overshadowed,
        /// The client takes any.
        counter header_wildcard,
        /// The client accepts none that there is.
        counter header_not_valid,
        /// The response has an entity tag.
        counter not_compressed_etag,
    }
}

/// The extension.
pub struct Compressor;

impl HttpFilterExtension for Compressor {
    const DESCRIPTOR: Descriptor = Descriptor {
        name: "envoy.filters.http.compressor",
        message: fields::COMPRESSOR,
        status: Status::Stable,
        posture: SecurityPosture::RobustToUntrustedDownstream,
    };
    const ROUTE_MESSAGE: Option<&'static str> = Some(fields::PER_ROUTE);
    const PHASES: Phases = Phases { request_body: false, response_headers: true, response_body: false };
    const MAY_BE_UPSTREAM: bool = true;
    type Proto = proto::Compressor;
    type Config = Config;
    type RouteProto = proto::CompressorPerRoute;
    type RouteConfig = RouteConfig;

    fn build(proto: Self::Proto, cx: &mut BuildCx<'_>) -> Result<Self::Config, Rejected> {
        Config::build(proto, cx)
    }

    fn build_route(proto: Self::RouteProto, cx: &mut BuildCx<'_>) -> Result<Self::RouteConfig, Rejected> {
        RouteConfig::build(proto, cx)
    }

    fn create(config: &Arc<Self::Config>) -> Box<dyn HttpFilter> {
        let config = config.clone();
        Box::new(Filter {
            config,
            accepted: None,
            is_offered: Cell::new(false),
            request: None,
            response: None,
        })
    }
}

struct Filter {
    config: Arc<Config>,
    /// What the client accepts, as it came.
    accepted: Option<String>,
    is_offered: Cell<bool>,
    request: Option<Encoder>,
    response: Option<Encoder>,
}

impl HttpFilter for Filter {
    fn on_request_headers<'a>(&'a mut self, cx: &'a mut StreamCx<'_>, end: bool) -> HeadersStep<'a> {
        let route = cx.route_config::<RouteConfig>();
        let library = library_of(&self.config, route);
        self.offer(cx.info, library);
        self.accepted = joined(&cx.request.headers, &ACCEPT_ENCODING);
        let removes = route.and_then(|route| route.remove_accept_encoding);
        if self.compresses_responses(route) && removes.unwrap_or(self.config.remove_accept_encoding) {
            cx.request.headers.remove(ACCEPT_ENCODING);
        }
        let direction = &self.config.request;
        let headers = &mut cx.request.headers;
        let compresses = !end
            && self.config.compresses_requests
            && direction.is_enabled()
            && cx.request.method != Method::CONNECT
            && cx.request.upgrade.is_none()
            && direction.is_long_enough(headers)
            && direction.allows_type(headers)
            && !headers.contains_key(CONTENT_ENCODING);
        self.request = compresses.then(|| begin(library, headers)).flatten();
        cx.phases.request_body |= self.request.is_some();
        count(direction, self.request.is_some());
        HeadersStep::Continue
    }

    fn on_request_data<'a>(
        &'a mut self,
        _cx: &'a mut StreamCx<'_>,
        data: &'a mut Bytes,
        end: bool,
    ) -> DataStep<'a> {
        step(&mut self.request, &self.config.request, data, end)
    }

    fn on_request_trailers<'a>(
        &'a mut self,
        cx: &'a mut StreamCx<'_>,
        _trailers: &'a mut HeaderMap,
    ) -> HeadersStep<'a> {
        finish(&mut self.request, &self.config.request, cx)
    }

    fn on_response_headers<'a>(&'a mut self, cx: &'a mut StreamCx<'_>, end: bool) -> HeadersStep<'a> {
        let route = cx.route_config::<RouteConfig>();
        let library = library_of(&self.config, route);
        self.offer(cx.info, library);
        let is_tunnel = cx.request.upgrade.is_some() || cx.request.method == Method::CONNECT;
        let Some(head) = &mut cx.response else { return HeadersStep::Continue };
        let is_long_enough = self.compresses_responses(route)
            && !is_tunnel
            && !head.status.is_informational()
            && self.config.response.is_long_enough(&head.headers);
        let is_compressible = is_long_enough && self.may_change(head) && self.is_compressible(head);
        let length = head.headers.get(CONTENT_LENGTH).cloned();
        // (The order shows in what is counted: who tells what it did in a header asks for the client's wish last.)
        let asks = !end && if self.config.status_header { is_compressible } else { is_long_enough };
        let compresses = asks && self.is_chosen(cx.info, &head.headers, library) && is_compressible;
        if compresses {
            weaken(&mut head.headers, self.config.weaken_etag);
            self.response = begin(library, &mut head.headers);
        }
        if is_compressible {
            vary(&mut head.headers);
        }
        if self.config.status_header && self.compresses_responses(route) && !is_tunnel {
            self.tell(head, library, length.as_ref());
        }
        cx.phases.response_body |= self.response.is_some();
        count(&self.config.response, self.response.is_some());
        HeadersStep::Continue
    }

    fn on_response_data<'a>(
        &'a mut self,
        _cx: &'a mut StreamCx<'_>,
        data: &'a mut Bytes,
        end: bool,
    ) -> DataStep<'a> {
        step(&mut self.response, &self.config.response, data, end)
    }

    fn on_response_trailers<'a>(
        &'a mut self,
        cx: &'a mut StreamCx<'_>,
        _trailers: &'a mut HeaderMap,
    ) -> HeadersStep<'a> {
        finish(&mut self.response, &self.config.response, cx)
    }
}

impl Filter {
    /// Lets the other compressors of the chain know what this one does.
    fn offer(&self, info: &mut StreamInfo, library: &Library) {
        if self.is_offered.replace(true) {
            return;
        }
        if offers(info).is_none() {
            info.filter_state.set(choice::KEY, Rc::new(Offers::default()));
        }
        if let Some(offers) = offers(info) {
            offers.add(&self.config, library.encoding());
        }
    }

    fn compresses_responses(&self, route: Option<&RouteConfig>) -> bool {
        route.and_then(|route| route.compresses).unwrap_or_else(|| self.config.response.is_enabled())
    }

    /// Whether nobody forbids that the body of this response is changed.
    fn may_change(&self, head: &ResponseHead) -> bool {
        !forbids_transformation(&head.headers) && !head.headers.contains_key(CONTENT_ENCODING)
    }

    fn is_compressible(&self, head: &ResponseHead) -> bool {
        if !self.config.response.allows_type(&head.headers) {
            return false;
        }
        if !self.allows_tag(&head.headers) {
            self.config.stats.here().not_compressed_etag.inc();
            return false;
        }
        self.allows_status(head.status)
    }

    fn allows_tag(&self, headers: &HeaderMap) -> bool {
        !self.config.disable_on_etag || !headers.contains_key(ETAG)
    }

    fn allows_status(&self, status: StatusCode) -> bool {
        !self.config.uncompressible.contains(&u32::from(status.as_u16()))
    }

    /// Whether the client is to have this encoding; counts why.
    fn is_chosen(&self, info: &StreamInfo, headers: &HeaderMap, library: &Library) -> bool {
        let stats = self.config.stats.here();
        let Some(accepted) = &self.accepted else {
            stats.no_accept_header.inc();
            return false;
        };
        let Some(offers) = offers(info) else { return false };
        let decision = offers.decide(accepted, headers, self.config.choose_first);
        let is_chosen = decision.encoding() == Some(library.encoding());
        match decision {
            Decision::Named(_) if is_chosen => stats.header_compressor_used.inc(),
            Decision::Named(_) => stats.header_compressor_overshadowed.inc(),
            Decision::Any(_) => stats.header_wildcard.inc(),
            Decision::Identity => stats.header_identity.inc(),
            Decision::NotValid => stats.header_not_valid.inc(),
        }
        is_chosen
    }

    /// Says in a header what was done, and if nothing, why.
    fn tell(&self, head: &mut ResponseHead, library: &Library, length: Option<&HeaderValue>) {
        let direction = &self.config.response;
        let status = if self.response.is_some() {
            let length = length.and_then(|length| length.to_str().ok()).unwrap_or_default();
            format!("Compressed;OriginalLength={length}")
        } else if !direction.is_long_enough(&head.headers) {
            "ContentLengthTooSmall".to_owned()
        } else if !self.may_change(head) {
            return;
        } else if !direction.allows_type(&head.headers) {
            "ContentTypeNotAllowed".to_owned()
        } else if !self.allows_tag(&head.headers) {
            "EtagNotAllowed".to_owned()
        } else if !self.allows_status(head.status) {
            "StatusCodeNotAllowed".to_owned()
        } else {
            return;
        };
        if let Ok(value) = HeaderValue::try_from(format!("{};{status}", library.encoding())) {
            head.headers.append(STATUS, value);
        }
    }
}

fn offers(info: &StreamInfo) -> Option<&Offers> {
    info.filter_state.get(choice::KEY)?.as_any().downcast_ref()
}

/// The library of the route, or that of the filter.
fn library_of<'c>(config: &'c Config, route: Option<&'c RouteConfig>) -> &'c Library {
    route.and_then(|route| route.library.as_ref()).unwrap_or(&config.library)
}

/// Starts on the body of a message with these headers. None if the library refuses: the message stays as it is.
fn begin(library: &Library, headers: &mut HeaderMap) -> Option<Encoder> {
    match library.start() {
        Ok(encoder) => {
            headers.remove(CONTENT_LENGTH);
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static(library.encoding()));
            Some(encoder)
        }
        Err(error) => {
            tracing::warn!("{} does not compress: {error}", library.encoding());
            None
        }
    }
}

fn count(direction: &Direction, is_compressed: bool) {
    let stats = direction.stats.here();
    match is_compressed {
        true => stats.compressed.inc(),
        false => stats.not_compressed.inc(),
    }
}

/// Compresses a piece of a body.
fn step<'a>(
    encoder: &mut Option<Encoder>,
    direction: &Direction,
    data: &mut Bytes,
    end: bool,
) -> DataStep<'a> {
    let Some(encoder) = encoder else { return DataStep::Continue };
    match compressed(encoder, direction, data, end) {
        Ok(out) => {
            *data = out;
            DataStep::Continue
        }
        Err(reply) => DataStep::Reply(reply),
    }
}

/// The last bytes of a body that trailers follow.
fn finish<'a>(
    encoder: &mut Option<Encoder>,
    direction: &Direction,
    cx: &mut StreamCx<'_>,
) -> HeadersStep<'a> {
    let Some(encoder) = encoder else { return HeadersStep::Continue };
    match compressed(encoder, direction, &[], true) {
        Ok(out) => {
            if let Some(before) = cx.before_trailers.as_deref_mut() {
                *before = out;
            }
            HeadersStep::Continue
        }
        Err(reply) => HeadersStep::Reply(reply),
    }
}

fn compressed(
    encoder: &mut Encoder,
    direction: &Direction,
    data: &[u8],
    end: bool,
) -> Result<Bytes, Box<LocalReply>> {
    let out = encoder.compress(data, end).map_err(|error| {
        tracing::debug!("a body cannot be compressed: {error}");
        Box::new(LocalReply::new(StatusCode::INTERNAL_SERVER_ERROR, "", "compression_failed"))
    })?;
    let stats = direction.stats.here();
    stats.total_uncompressed_bytes.add(data.len() as u64);
    stats.total_compressed_bytes.add(out.len() as u64);
    Ok(out)
}

/// All values of a header as one.
fn joined(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    let mut values = headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes()));
    let mut all = values.next()?.into_owned();
    for value in values {
        all.push(',');
        all.push_str(&value);
    }
    Some(all)
}

fn forbids_transformation(headers: &HeaderMap) -> bool {
    let values =
        headers.get_all(CACHE_CONTROL).iter().flat_map(|value| value.as_bytes().split(|b| *b == b','));
    values.into_iter().any(|token| token.trim_ascii().eq_ignore_ascii_case(b"no-transform"))
}

/// The body is another one now: a strong entity tag goes, or becomes a weak one.
fn weaken(headers: &mut HeaderMap, keeps: bool) {
    let Some(tag) = headers.get(ETAG) else { return };
    let tag = tag.as_bytes();
    if matches!(tag, [b'w' | b'W', b'/', ..]) {
        return;
    }
    match HeaderValue::from_bytes(&[b"W/", tag].concat()) {
        Ok(weak) if keeps => {
            headers.insert(ETAG, weak);
        }
        _ => {
            headers.remove(ETAG);
        }
    }
}

/// Caches must know that the body depends on what the client accepts.
fn vary(headers: &mut HeaderMap) {
    const ACCEPT: &str = "Accept-Encoding";
    let value = match joined(headers, &VARY) {
        None => HeaderValue::from_static(ACCEPT),
        Some(known) if known.split(',').any(|token| token.trim() == ACCEPT) => return,
        Some(known) => match HeaderValue::try_from(format!("{known}, {ACCEPT}")) {
            Ok(value) => value,
            Err(_) => return,
        },
    };
    headers.insert(VARY, value);
}
