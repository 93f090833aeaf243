//! What a panic ends: the stream or the connection that it happens in, and nothing else.
//!
//! A task is a boundary already: the runtime catches what its task throws, the task is gone, and guards that are dropped with it
//! keep the gauges true. [`contain`] is the boundary inside a task, for what has to be told that the rest of it panicked: the
//! HTTP/2 stream that is reset, the pool that must forget a connection. [`vital`] is for the tasks of a worker without which it
//! serves nobody: a panic there ends the process, which its supervisor starts again. The hook of the process counts and logs.

use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::Poll;

/// Runs `future`; `None` if it panicked. What it left half done is its caller's to judge.
///
/// Cancel safety: that of `future`.
pub(crate) async fn contain<F: Future>(mut future: Pin<&mut F>) -> Option<F::Output> {
    poll_fn(|task| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(task))) {
        Ok(poll) => poll.map(Some),
        Err(_) => Poll::Ready(None),
    })
    .await
}

/// Runs `future`; a panic in it ends the process.
///
/// Cancel safety: that of `future`.
pub(crate) async fn vital<F: Future>(future: F) -> F::Output {
    let _guard = Vital;
    future.await
}

struct Vital;

impl Drop for Vital {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::process::abort();
        }
    }
}

/// Does something when it is dropped, however the block ends.
pub(crate) struct Finally<F: FnMut()>(pub(crate) F);

impl<F: FnMut()> Drop for Finally<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// Panics if the runtime key `testing.panic.<place>` is set: how tests see to it that the above holds. In builds with debug
/// assertions only; what is shipped has no such place.
#[cfg(debug_assertions)]
#[expect(clippy::panic, reason = "what it is for")]
pub(crate) fn drill(place: &str, runtime: &proxy_core::runtime::Runtime) {
    if runtime.flag(&format!("testing.panic.{place}"), false) {
        panic!("drill: {place}");
    }
}

/// Nothing.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub(crate) fn drill(_: &str, _: &proxy_core::runtime::Runtime) {}

/// [`drill`] for the one request whose `x-panic` names the place.
#[inline(always)]
pub(crate) fn drill_request(
    place: &str,
    request: &proxy_core::head::RequestHead,
    runtime: &proxy_core::runtime::Runtime,
) {
    if cfg!(debug_assertions) && request.headers.get("x-panic").is_some_and(|named| named == place) {
        drill(place, runtime);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::pin::pin;

    #[tokio::test]
    async fn a_panic_stays_inside() {
        let ended = Cell::new(0);
        let panics = async {
            let _ended = Finally(|| ended.set(ended.get() + 1));
            tokio::task::yield_now().await;
            std::panic::resume_unwind(Box::new("quietly"));
        };
        assert_eq!(contain(pin!(panics)).await, None);
        assert_eq!(ended.get(), 1, "what it held was dropped");
        assert_eq!(contain(pin!(async { 7 })).await, Some(7));
    }
}
