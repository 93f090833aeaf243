//! The HTTP filters of one stream and the order in which they see its parts.
//!
//! Requests pass from the first filter to the last, responses from the last to the first; a *position* counts along the way.
//! A filter that is disabled, or has nothing to do in a phase, is not called in it. What a filter holds stays at its
//! position, before the filters that follow, which see it once it is let go: the head, then the data, then the end.

use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use proxy_core::extension::http_filter::{
    DataStep, Direction, Engine, HeadersStep, HttpFilter as Filter, Phases, Route, StreamCx, Verdict,
};
use proxy_core::head::{BodyEvent, HeadLimits, RequestHead, ResponseHead};
use proxy_core::http_chain::HttpFilter;
use proxy_core::local_reply::LocalReply;
use proxy_core::stream_info::StreamInfo;
use smallvec::SmallVec;

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
    /// How large clients may make the head of a request.
    pub(crate) head_limits: HeadLimits,
    /// What filters may ask for.
    pub(crate) engine: &'s dyn Engine,
}

/// The end of a message.
#[derive(Clone, Debug)]
pub(crate) enum Ending {
    /// Nothing more.
    Stream,
    /// Trailers.
    Trailers(Box<HeaderMap>),
}

/// Parts of one message that pass through the chain together, in this order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Parts {
    /// The head, which itself lies in the stream.
    pub(crate) head: bool,
    /// A piece of the body.
    pub(crate) data: Bytes,
    /// The end.
    pub(crate) end: Option<Ending>,
}

impl Parts {
    /// A head; `end` if nothing follows.
    pub(crate) fn head(end: bool) -> Self {
        Self { head: true, data: Bytes::new(), end: end.then_some(Ending::Stream) }
    }

    /// What follows a head.
    pub(crate) fn body(event: BodyEvent) -> Self {
        match event {
            BodyEvent::Data(data) => Self { data, ..Self::default() },
            BodyEvent::Trailers(trailers) => {
                Self { end: Some(Ending::Trailers(Box::new(trailers))), ..Self::default() }
            }
            BodyEvent::End => Self { end: Some(Ending::Stream), ..Self::default() },
        }
    }

    /// The last piece of a body.
    pub(crate) fn last(data: Bytes) -> Self {
        Self { data, end: Some(Ending::Stream), ..Self::default() }
    }

    /// The message ends here without trailers.
    pub(crate) fn ends(&self) -> bool {
        matches!(self.end, Some(Ending::Stream))
    }

    /// Nothing but the head comes.
    pub(crate) fn ends_with_head(&self) -> bool {
        self.head && self.data.is_empty() && self.ends()
    }

    fn is_empty(&self) -> bool {
        !self.head && self.data.is_empty() && self.end.is_none()
    }
}

/// How far parts came.
pub(crate) enum Passed {
    /// These passed all filters; what is missing is held.
    On(Parts),
    /// A filter replies.
    Reply(Box<LocalReply>),
    /// Filters hold more than the stream may buffer.
    TooLarge,
    /// The route is to be matched anew before the filter at this position gets these.
    Rematch(usize, Parts),
}

struct Instance {
    filter: Box<dyn Filter>,
    phases: Phases,
    /// Index in the configured chain.
    configured: usize,
}

impl Instance {
    fn sees_head(&self, direction: Direction) -> bool {
        direction == Direction::Request || self.phases.response_headers
    }

    fn sees_body(&self, direction: Direction) -> bool {
        match direction {
            Direction::Request => self.phases.request_body,
            Direction::Response => self.phases.response_body,
        }
    }
}

/// What filters hold in one direction, by their position on the way.
#[derive(Default)]
struct Held {
    head: Option<usize>,
    data: Vec<(usize, BytesMut)>,
    end: Option<(usize, Ending)>,
    /// What filters get to see again, because they let only a part pass: the last of these first, which came through the others.
    rests: Vec<Rest>,
}

/// What a filter did not let pass yet, and what came after that.
struct Rest {
    position: usize,
    /// To be seen first; empty while the filter looks at it.
    data: Bytes,
    /// What came meanwhile.
    behind: BytesMut,
    /// The filter looks at it now.
    is_shown: bool,
}

impl Rest {
    fn len(&self) -> usize {
        self.data.len() + self.behind.len()
    }

    /// What the filter is to see next.
    fn show(&mut self) -> Bytes {
        self.is_shown = true;
        match self.data.is_empty() {
            true => self.behind.split().freeze(),
            false => std::mem::take(&mut self.data),
        }
    }
}

impl Held {
    /// Keeps `data` at `position`; all that is kept, in bytes.
    fn keep(&mut self, position: usize, data: &[u8]) -> usize {
        match self.data.iter_mut().find(|(at, _)| *at == position) {
            Some((_, kept)) => kept.extend_from_slice(data),
            None => self.data.push((position, BytesMut::from(data))),
        }
        self.data.iter().map(|(_, kept)| kept.len()).sum()
    }

    /// Puts what is held at `position` before what is in `parts`.
    fn release(&mut self, position: usize, parts: &mut Parts) {
        if self.head == Some(position) {
            self.head = None;
            parts.head = true;
        }
        let Some(at) = self.data.iter().position(|(at, _)| *at == position) else { return };
        let (_, mut kept) = self.data.swap_remove(at);
        kept.extend_from_slice(&parts.data);
        parts.data = kept.freeze();
    }

    /// Puts `parts` behind the rest that waits at `position`; whether there is one.
    fn queue(&mut self, position: usize, parts: &mut Parts) -> bool {
        let waits = |rest: &&mut Rest| rest.position == position && !rest.is_shown;
        let Some(rest) = self.rests.iter_mut().find(waits) else { return false };
        rest.behind.extend_from_slice(&std::mem::take(&mut parts.data));
        if let Some(end) = parts.end.take() {
            self.end = Some((position, end));
        }
        true
    }

    /// The filter at `position` has seen what there was to see, but for `rest`.
    fn seen(&mut self, position: usize, rest: Option<Bytes>) {
        let known = self.rests.iter().position(|rest| rest.position == position);
        match (known, rest) {
            (None, None) => {}
            (None, Some(data)) => {
                self.rests.push(Rest { position, data, behind: BytesMut::new(), is_shown: false });
            }
            (Some(index), None) if self.rests[index].behind.is_empty() => {
                self.rests.remove(index);
            }
            (Some(index), data) => {
                let rest = &mut self.rests[index];
                rest.data = data.unwrap_or_default();
                rest.is_shown = false;
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.head.is_none() && self.data.is_empty() && self.end.is_none() && self.rests.is_empty()
    }

    /// Where something is held.
    fn positions(&self) -> impl Iterator<Item = usize> {
        let data = self.data.iter().map(|(position, _)| *position);
        self.head.into_iter().chain(self.end.as_ref().map(|(position, _)| *position)).chain(data)
    }
}

/// The filters of one stream.
pub(crate) struct FilterChain {
    instances: Vec<Instance>,
    phases: Phases,
    /// Most bytes that may be held in a direction.
    limit: usize,
    request: Held,
    response: Held,
}

impl FilterChain {
    /// Makes the filters that `route` leaves enabled; each direction may hold `limit` bytes.
    pub(crate) fn new(configured: &[HttpFilter], route: Option<&SelectedRoute<'_>>, limit: usize) -> Self {
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
            phases.add(own);
            instances.push(Instance { filter: filter.config.create(), phases: own, configured: index });
        }
        Self { instances, phases, limit, request: Held::default(), response: Held::default() }
    }

    /// Whether any filter has to do with `parts`; all pass untouched otherwise.
    pub(crate) fn concerns(&self, direction: Direction, parts: &Parts) -> bool {
        match direction {
            Direction::Request => {
                (parts.head && !self.instances.is_empty())
                    || self.phases.request_body
                    || !self.request.is_empty()
            }
            Direction::Response => {
                (parts.head && self.phases.response_headers)
                    || self.phases.response_body
                    || !self.response.is_empty()
            }
        }
    }

    /// Whether a filter holds anything in this direction.
    pub(crate) fn holds(&self, direction: Direction) -> bool {
        match direction {
            Direction::Request => !self.request.is_empty(),
            Direction::Response => !self.response.is_empty(),
        }
    }

    fn held(&mut self, direction: Direction) -> &mut Held {
        match direction {
            Direction::Request => &mut self.request,
            Direction::Response => &mut self.response,
        }
    }

    /// Whether as much waits as may be held, because a filter did not let it pass yet: nothing that comes after it is to be read.
    pub(crate) fn paces(&self, direction: Direction) -> bool {
        let rests = match direction {
            Direction::Request => &self.request.rests,
            Direction::Response => &self.response.rests,
        };
        !rests.is_empty() && rests.iter().map(Rest::len).sum::<usize>() >= self.limit
    }

    /// Forgets what is held: another message takes the place of this one.
    pub(crate) fn forget(&mut self, direction: Direction) {
        *self.held(direction) = Held::default();
    }

    /// The filter at `position` on the way in `direction`.
    fn instance(&mut self, direction: Direction, position: usize) -> Option<&mut Instance> {
        let index = match direction {
            Direction::Request => position,
            Direction::Response => self.instances.len().checked_sub(position + 1)?,
        };
        self.instances.get_mut(index)
    }

    /// Passes `parts` on from the filter at position `from`.
    pub(crate) async fn advance(
        &mut self,
        direction: Direction,
        configured: &[HttpFilter],
        view: &mut View<'_>,
        from: usize,
        mut parts: Parts,
    ) -> Passed {
        for position in from..self.instances.len() {
            if parts.is_empty() {
                break;
            }
            if direction == Direction::Request && position > from && *view.clear_route {
                return Passed::Rematch(position, parts);
            }
            let ends_with_head = parts.ends_with_head();
            if parts.head
                && let Some(reply) = self.pass_head(direction, configured, view, position, &mut parts).await
            {
                return Passed::Reply(reply);
            }
            if ends_with_head || (parts.data.is_empty() && parts.end.is_none()) {
                continue;
            }
            match self.pass_body(direction, configured, view, position, &mut parts).await {
                Kept::Within => {}
                Kept::Over => return Passed::TooLarge,
                Kept::Reply(reply) => return Passed::Reply(reply),
            }
        }
        Passed::On(parts)
    }

    async fn pass_head(
        &mut self,
        direction: Direction,
        configured: &[HttpFilter],
        view: &mut View<'_>,
        position: usize,
        parts: &mut Parts,
    ) -> Option<Box<LocalReply>> {
        let ends = parts.ends_with_head();
        let mut limit = self.limit;
        let Instance { filter, phases, configured: index } =
            self.instance(direction, position).filter(|one| one.sees_head(direction))?;
        let settled = {
            let mut cx = view.cx(configured, *index, &mut limit, phases);
            let step = match direction {
                Direction::Request => filter.on_request_headers(&mut cx, ends),
                Direction::Response => filter.on_response_headers(&mut cx, ends),
            };
            match step {
                HeadersStep::Continue => None,
                step => Some(settle(step).await),
            }
        };
        let own = *phases;
        self.phases.add(own);
        let settled = settled?;
        self.limit = limit;
        match settled {
            Settled::Continue => {}
            Settled::Hold => {
                let held = self.held(direction);
                held.head = Some(position);
                parts.head = false;
                if ends {
                    held.end = parts.end.take().map(|end| (position, end));
                }
            }
            Settled::Reply(reply) => return Some(reply),
        }
        None
    }

    async fn pass_body(
        &mut self,
        direction: Direction,
        configured: &[HttpFilter],
        view: &mut View<'_>,
        position: usize,
        parts: &mut Parts,
    ) -> Kept {
        if self.held(direction).queue(position, parts) {
            return Kept::Within;
        }
        let holds_head = self.held(direction).head == Some(position);
        let limit = self.limit;
        let Some(instance) = self.instance(direction, position) else { return Kept::Within };
        let sees = instance.sees_body(direction);
        if !sees && !holds_head {
            return Kept::Within;
        }
        let ends = parts.ends();
        if !parts.data.is_empty() || ends {
            let mut unchanged = limit;
            let mut trailers = HeaderMap::new();
            let Instance { filter, phases, configured: index } = instance;
            let mut cx = view.cx(configured, *index, &mut unchanged, phases);
            cx.new_trailers = ends.then_some(&mut trailers);
            let settled = match direction {
                // A filter that holds a head and does not look at what follows lets go by `poll_resume` only.
                _ if !sees => SettledData::Hold,
                Direction::Request => {
                    settle_data(filter.on_request_data(&mut cx, &mut parts.data, ends)).await
                }
                Direction::Response => {
                    settle_data(filter.on_response_data(&mut cx, &mut parts.data, ends)).await
                }
            };
            let held = self.held(direction);
            if !held.rests.is_empty() && !matches!(settled, SettledData::Part(_)) {
                held.seen(position, None);
            }
            match settled {
                SettledData::Continue => {
                    held.release(position, parts);
                    if !trailers.is_empty() {
                        parts.end = Some(Ending::Trailers(Box::new(trailers)));
                        return Kept::Within;
                    }
                }
                SettledData::Hold => {
                    let data = std::mem::take(&mut parts.data);
                    if ends {
                        held.end = parts.end.take().map(|end| (position, end));
                    }
                    if held.keep(position, &data) > limit {
                        return Kept::Over;
                    }
                }
                SettledData::Part(rest) => {
                    held.release(position, parts);
                    if let Some(end) = parts.end.take() {
                        held.end = Some((position, end));
                    }
                    held.seen(position, Some(rest));
                }
                SettledData::Drop => {
                    parts.data = Bytes::new();
                    if ends {
                        held.release(position, parts);
                    }
                }
                SettledData::Reply(reply) => return Kept::Reply(reply),
            }
        }
        let Some(Ending::Trailers(trailers)) = &mut parts.end else { return Kept::Within };
        let Some(instance) = self.instance(direction, position) else { return Kept::Within };
        let mut unchanged = limit;
        let mut added = Bytes::new();
        let Instance { filter, phases, configured: index } = instance;
        let mut cx = view.cx(configured, *index, &mut unchanged, phases);
        cx.before_trailers = Some(&mut added);
        let settled = match direction {
            _ if !sees => Settled::Hold,
            Direction::Request => settle(filter.on_request_trailers(&mut cx, trailers)).await,
            Direction::Response => settle(filter.on_response_trailers(&mut cx, trailers)).await,
        };
        if !added.is_empty() {
            parts.data = match parts.data.is_empty() {
                true => added,
                false => [&parts.data[..], &added].concat().into(),
            };
        }
        let held = self.held(direction);
        match settled {
            Settled::Continue => held.release(position, parts),
            Settled::Hold => held.end = parts.end.take().map(|end| (position, end)),
            Settled::Reply(reply) => return Kept::Reply(reply),
        }
        Kept::Within
    }

    /// Ready when a filter that holds something wants to go on: where it stands, and how.
    pub(crate) fn poll_resume(
        &mut self,
        direction: Direction,
        task: &mut Context<'_>,
    ) -> Poll<(usize, Verdict)> {
        let paced = self.held(direction).rests.last().map(|rest| rest.position);
        if let Some(position) = paced
            && let Some(instance) = self.instance(direction, position)
            && instance.filter.poll_rest(direction, task).is_ready()
        {
            return Poll::Ready((position, Verdict::Continue));
        }
        // (What is held before a rest comes after it.)
        let behind = |at: &usize| paced.is_none_or(|position| *at > position);
        let positions: SmallVec<[usize; 4]> = self.held(direction).positions().filter(behind).collect();
        for position in positions {
            let Some(instance) = self.instance(direction, position) else { continue };
            if let Poll::Ready(verdict) = instance.filter.poll_resume(direction, task) {
                return Poll::Ready((position, verdict));
            }
        }
        Poll::Pending
    }

    /// Takes all that the filter at `position` holds, and where that goes on: behind the filter, or at it if it is to see a rest.
    pub(crate) fn release(&mut self, direction: Direction, position: usize) -> (usize, Parts) {
        let held = self.held(direction);
        let mut parts = Parts::default();
        let mut is_all = true;
        let from = match held.rests.last_mut().filter(|rest| rest.position == position) {
            Some(rest) => {
                parts.data = rest.show();
                is_all = rest.len() == 0;
                position
            }
            None => {
                held.release(position, &mut parts);
                position + 1
            }
        };
        if is_all && let Some((_, end)) = held.end.take_if(|(at, _)| *at == position) {
            parts.end = Some(end);
        }
        (from, parts)
    }

    /// Tells every filter that the stream is over.
    pub(crate) fn complete(
        &mut self,
        request: &RequestHead,
        response: Option<&ResponseHead>,
        info: &mut StreamInfo,
        engine: &dyn Engine,
    ) {
        for instance in &mut self.instances {
            instance.filter.on_complete(request, response, info, engine);
        }
    }
}

/// What became of a piece of a body.
enum Kept {
    /// It passed, or it is held.
    Within,
    /// It is too much to hold.
    Over,
    Reply(Box<LocalReply>),
}

impl View<'_> {
    fn cx<'c>(
        &'c mut self,
        configured: &'c [HttpFilter],
        index: usize,
        hold_limit: &'c mut usize,
        phases: &'c mut Phases,
    ) -> StreamCx<'c> {
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
            name: name.unwrap_or_default(),
            route_configs,
            clear_route: self.clear_route,
            hold_limit,
            phases,
            before_trailers: None,
            new_trailers: None,
            head_limits: self.head_limits,
            engine: self.engine,
        }
    }
}

/// What a hook on a head or on trailers came to.
enum Settled {
    Continue,
    Hold,
    Reply(Box<LocalReply>),
}

/// What a hook on data came to.
enum SettledData {
    Continue,
    Part(Bytes),
    Hold,
    Drop,
    Reply(Box<LocalReply>),
}

async fn settle(step: HeadersStep<'_>) -> Settled {
    match step {
        HeadersStep::Continue => Settled::Continue,
        HeadersStep::Hold => Settled::Hold,
        HeadersStep::Wait(future) => match future.await {
            Verdict::Continue => Settled::Continue,
            Verdict::Reply(reply) => Settled::Reply(reply),
        },
        HeadersStep::Reply(reply) => Settled::Reply(reply),
    }
}

async fn settle_data(step: DataStep<'_>) -> SettledData {
    match step {
        DataStep::Continue => SettledData::Continue,
        DataStep::Part(rest) => SettledData::Part(rest),
        DataStep::Hold => SettledData::Hold,
        DataStep::Drop => SettledData::Drop,
        DataStep::Reply(reply) => SettledData::Reply(reply),
        DataStep::Wait(future) => match future.await {
            Verdict::Continue => SettledData::Continue,
            Verdict::Reply(reply) => SettledData::Reply(reply),
        },
    }
}
