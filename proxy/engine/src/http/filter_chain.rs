//! The HTTP filters of one stream and the order in which they see its parts.
//!
//! Requests pass from the first filter to the last, responses from the last to the first. A filter that is disabled, or
//! has nothing to do in a phase, is not called in it.

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use proxy_core::extension::http_filter::{
    DataStep, Engine, HeadersStep, HttpFilter as Filter, Phases, Route, StreamCx, Verdict,
};
use proxy_core::head::{RequestHead, ResponseHead};
use proxy_core::local_reply::LocalReply;
use proxy_core::stream_info::StreamInfo;

use super::config::HttpFilter;
use crate::router::SelectedRoute;

/// What filters see of a stream, borrowed for the time of one phase.
pub(crate) struct View<'s> {
    /// The request.
    pub(crate) request: &'s mut RequestHead,
    /// The response, in its phases.
    pub(crate) response: Option<&'s mut ResponseHead>,
    /// What is known about the stream.
    pub(crate) info: &'s mut StreamInfo,
    /// The route that matched.
    pub(crate) route: Option<SelectedRoute<'s>>,
    /// Set by a filter that wants the route matched anew.
    pub(crate) clear_route: &'s mut bool,
    /// What filters may ask for.
    pub(crate) engine: &'s dyn Engine,
}

/// How a phase ended.
pub(crate) enum Passed {
    /// All filters let it pass.
    On,
    /// The filter at this index holds it.
    Held(usize),
    /// The filter took the data.
    Dropped,
    /// A filter replies.
    Reply(Box<LocalReply>),
}

struct Instance {
    filter: Box<dyn Filter>,
    phases: Phases,
    /// Index in the configured chain.
    configured: usize,
}

/// The filters of one stream.
pub(crate) struct FilterChain {
    instances: Vec<Instance>,
    phases: Phases,
    /// What filters hold back of the request's body, and of the response's.
    held: [BytesMut; 2],
}

impl FilterChain {
    /// Makes the filters that `route` leaves enabled.
    pub(crate) fn new(configured: &[HttpFilter], route: Option<&SelectedRoute<'_>>) -> Self {
        let mut instances = Vec::with_capacity(configured.len());
        let mut phases = Phases::default();
        for (index, filter) in configured.iter().enumerate() {
            let enabled = match route
                .and_then(|route| route.filter_config(&filter.name))
                .and_then(|config| config.disabled)
                .map(|disabled| !disabled)
            {
                Some(enabled) => enabled,
                None => !filter.disabled,
            };
            if !enabled {
                continue;
            }
            let own = filter.config.phases();
            phases.request_body |= own.request_body;
            phases.response_headers |= own.response_headers;
            phases.response_body |= own.response_body;
            instances.push(Instance { filter: filter.config.create(), phases: own, configured: index });
        }
        Self { instances, phases, held: Default::default() }
    }

    /// Number of filters.
    pub(crate) fn len(&self) -> usize {
        self.instances.len()
    }

    /// Whether any filter looks at request bodies.
    pub(crate) fn sees_request_body(&self) -> bool {
        self.phases.request_body
    }

    /// Whether any filter looks at response bodies.
    pub(crate) fn sees_response_body(&self) -> bool {
        self.phases.response_body
    }

    /// Passes the request head through the filters from `first` on.
    pub(crate) async fn request_headers(
        &mut self,
        configured: &[HttpFilter],
        view: &mut View<'_>,
        first: usize,
        end: bool,
    ) -> Passed {
        for index in first..self.instances.len() {
            let Some(instance) = self.instances.get_mut(index) else { break };
            let mut cx = view.cx(configured, instance.configured);
            let step = instance.filter.on_request_headers(&mut cx, end);
            if matches!(step, HeadersStep::Continue) {
                continue;
            }
            match settle(step).await {
                Settled::Continue => {}
                Settled::Hold => return Passed::Held(index),
                Settled::Drop => return Passed::Dropped,
                Settled::Reply(reply) => return Passed::Reply(reply),
            }
        }
        Passed::On
    }

    /// Passes the response head through the filters before `first`, last to first.
    pub(crate) async fn response_headers(
        &mut self,
        configured: &[HttpFilter],
        view: &mut View<'_>,
        first: usize,
        end: bool,
    ) -> Passed {
        if !self.phases.response_headers {
            return Passed::On;
        }
        for index in (0..first).rev() {
            let Some(instance) = self.instances.get_mut(index).filter(|one| one.phases.response_headers)
            else {
                continue;
            };
            let mut cx = view.cx(configured, instance.configured);
            let step = instance.filter.on_response_headers(&mut cx, end);
            if matches!(step, HeadersStep::Continue) {
                continue;
            }
            match settle(step).await {
                Settled::Continue => {}
                Settled::Hold => return Passed::Held(index),
                Settled::Drop => return Passed::Dropped,
                Settled::Reply(reply) => return Passed::Reply(reply),
            }
        }
        Passed::On
    }

    /// Passes a piece of the request's body through the filters from `first` to before `stop`.
    pub(crate) async fn request_data(
        &mut self,
        configured: &[HttpFilter],
        view: &mut View<'_>,
        (first, stop): (usize, usize),
        data: &mut Bytes,
        end: bool,
    ) -> Passed {
        for index in first..stop.min(self.instances.len()) {
            let Some(instance) = self.instances.get_mut(index).filter(|one| one.phases.request_body) else {
                continue;
            };
            let mut cx = view.cx(configured, instance.configured);
            match settle_data(instance.filter.on_request_data(&mut cx, data, end)).await {
                Settled::Continue => {}
                Settled::Hold => return Passed::Held(index),
                Settled::Drop => return Passed::Dropped,
                Settled::Reply(reply) => return Passed::Reply(reply),
            }
        }
        Passed::On
    }

    /// Passes a piece of the response's body through the filters before `first`, last to first.
    pub(crate) async fn response_data(
        &mut self,
        configured: &[HttpFilter],
        view: &mut View<'_>,
        first: usize,
        data: &mut Bytes,
        end: bool,
    ) -> Passed {
        for index in (0..first).rev() {
            let Some(instance) = self.instances.get_mut(index).filter(|one| one.phases.response_body) else {
                continue;
            };
            let mut cx = view.cx(configured, instance.configured);
            match settle_data(instance.filter.on_response_data(&mut cx, data, end)).await {
                Settled::Continue => {}
                Settled::Hold => return Passed::Held(index),
                Settled::Drop => return Passed::Dropped,
                Settled::Reply(reply) => return Passed::Reply(reply),
            }
        }
        Passed::On
    }

    /// Passes the request's trailers through all filters.
    pub(crate) async fn request_trailers(
        &mut self,
        configured: &[HttpFilter],
        view: &mut View<'_>,
        trailers: &mut HeaderMap,
    ) -> Passed {
        for instance in self.instances.iter_mut().filter(|one| one.phases.request_body) {
            let mut cx = view.cx(configured, instance.configured);
            match settle(instance.filter.on_request_trailers(&mut cx, trailers)).await {
                Settled::Continue | Settled::Hold | Settled::Drop => {}
                Settled::Reply(reply) => return Passed::Reply(reply),
            }
        }
        Passed::On
    }

    /// Passes the response's trailers through all filters, last to first.
    pub(crate) async fn response_trailers(
        &mut self,
        configured: &[HttpFilter],
        view: &mut View<'_>,
        trailers: &mut HeaderMap,
    ) -> Passed {
        for instance in self.instances.iter_mut().rev().filter(|one| one.phases.response_body) {
            let mut cx = view.cx(configured, instance.configured);
            match settle(instance.filter.on_response_trailers(&mut cx, trailers)).await {
                Settled::Continue | Settled::Hold | Settled::Drop => {}
                Settled::Reply(reply) => return Passed::Reply(reply),
            }
        }
        Passed::On
    }

    /// Adds to what is held back of the request; its length now.
    pub(crate) fn hold_request(&mut self, data: &[u8]) -> usize {
        self.held[0].extend_from_slice(data);
        self.held[0].len()
    }

    /// Takes what was held back of the request.
    pub(crate) fn take_request(&mut self) -> Bytes {
        std::mem::take(&mut self.held[0]).freeze()
    }

    /// Adds to what is held back of the response; its length now.
    pub(crate) fn hold_response(&mut self, data: &[u8]) -> usize {
        self.held[1].extend_from_slice(data);
        self.held[1].len()
    }

    /// Takes what was held back of the response.
    pub(crate) fn take_response(&mut self) -> Bytes {
        std::mem::take(&mut self.held[1]).freeze()
    }

    /// Tells every filter that the stream is over.
    pub(crate) fn complete(
        &mut self,
        request: &RequestHead,
        response: Option<&ResponseHead>,
        info: &mut StreamInfo,
    ) {
        for instance in &mut self.instances {
            instance.filter.on_complete(request, response, info);
        }
    }
}

impl View<'_> {
    fn cx(&mut self, configured: &[HttpFilter], index: usize) -> StreamCx<'_> {
        let name = configured.get(index).map(|filter| &*filter.name);
        let route_configs: &[_] = match (&self.route, name) {
            (Some(route), Some(name)) => route.filter_config(name).map_or(&[], |config| &config.configs),
            _ => &[],
        };
        StreamCx {
            request: self.request,
            response: self.response.as_deref_mut(),
            info: self.info,
            route: self.route.as_ref().map(|route| route as &dyn Route),
            route_configs,
            clear_route: self.clear_route,
            engine: self.engine,
        }
    }
}

enum Settled {
    Continue,
    Hold,
    Drop,
    Reply(Box<LocalReply>),
}

async fn settle(step: HeadersStep<'_>) -> Settled {
    match step {
        HeadersStep::Continue => Settled::Continue,
        HeadersStep::Hold => Settled::Hold,
        HeadersStep::Wait(future) => settle_verdict(future.await),
        HeadersStep::Reply(reply) => Settled::Reply(reply),
    }
}

async fn settle_data(step: DataStep<'_>) -> Settled {
    match step {
        DataStep::Continue => Settled::Continue,
        DataStep::Hold => Settled::Hold,
        DataStep::Drop => Settled::Drop,
        DataStep::Wait(future) => settle_verdict(future.await),
        DataStep::Reply(reply) => Settled::Reply(reply),
    }
}

fn settle_verdict(verdict: Verdict) -> Settled {
    match verdict {
        Verdict::Continue => Settled::Continue,
        Verdict::Reply(reply) => Settled::Reply(reply),
    }
}
