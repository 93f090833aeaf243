//! What room there is in a head: what the service adds must not make it larger than clients, or hosts, may.

use proxy_core::head::{HeadLimits, RequestHead, ResponseHead};

use crate::shared::ext_authz::check::fields;
use crate::shared::ext_authz::mutation::Mutation;

/// Fields and bytes of a head, pseudo-headers included.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Size {
    fields: usize,
    bytes: usize,
}

pub(super) fn size_of_request(request: &RequestHead) -> Size {
    size(fields(request))
}

pub(super) fn size_of_response(response: &ResponseHead) -> Size {
    let headers = response.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
    size(headers.chain([(":status", response.status.as_str().as_bytes())]))
}

fn size<'h>(fields: impl Iterator<Item = (&'h str, &'h [u8])>) -> Size {
    let add = |size: Size, (name, value): (&str, &[u8])| Size {
        fields: size.fields + 1,
        bytes: size.bytes + name.len() + value.len(),
    };
    fields.fold(Size::default(), add)
}

/// The room in a head.
pub(super) struct Room {
    limits: HeadLimits,
    /// No more than this is in it.
    taken: Size,
}

impl Room {
    pub(super) fn of(taken: Size, limits: HeadLimits) -> Self {
        Self { limits, taken }
    }

    /// Whether there is some after this change. The head is measured only where it may be too large.
    pub(super) fn is_left_after(&mut self, mutation: &Mutation, measure: impl FnOnce() -> Size) -> bool {
        self.taken.fields += 1;
        self.taken.bytes += mutation.name.len() + mutation.value.len() + 1;
        if !self.holds() {
            self.taken = measure();
        }
        self.holds()
    }

    fn holds(&self) -> bool {
        self.taken.fields <= self.limits.fields && self.taken.bytes <= self.limits.bytes
    }
}
