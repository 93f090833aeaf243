//! HTTP/2 streams of this worker that hold much of their responses back, for the action that resets them
//! (`envoy.overload_actions.reset_high_memory_stream`).
//!
//! Nobody is listed here unless the action is configured, and then those streams alone that hold `2 ^ minimum_account_to_track_power_of_two`
//! octets or more. They fall into eight classes, each twice as heavy as the one before. At a share `s` those of the heaviest
//! `floor(8 s) + 1` classes are reset, fifty at most each time that the share changes.
//!
//! Source: Envoy `overload_manager.rst` ("Reset Streams"), `overload.proto`.

use std::cell::RefCell;
use std::task::{Context, Poll, Waker};

use slab::Slab;

/// Classes by weight.
const CLASSES: u32 = 8;
/// Most streams that are reset at once.
const MOST: usize = 50;

/// Those that are tracked on a worker.
#[derive(Default)]
struct Tracked {
    /// The logarithm of what the lightest of them holds; 0 if none is tracked.
    power: u32,
    streams: Slab<Stream>,
}

struct Stream {
    held: usize,
    is_doomed: bool,
    waker: Option<Waker>,
}

thread_local! {
    static TRACKED: RefCell<Tracked> = const { RefCell::new(Tracked { power: 0, streams: Slab::new() }) };
}

/// Tracks streams of this worker that begin from now on and come to hold so much.
pub(crate) fn track(power: u32) {
    TRACKED.with_borrow_mut(|tracked| tracked.power = power);
}

/// Resets the heaviest streams of this worker; how many. `share` is from 0, where there is none, to 1, where all are.
pub(crate) fn reset(share: f64) -> usize {
    let wakers = TRACKED.with_borrow_mut(|tracked| tracked.doom(share));
    let count = wakers.len();
    // (A waker may run code of ours: nothing is borrowed meanwhile.)
    wakers.into_iter().flatten().for_each(Waker::wake);
    count
}

impl Tracked {
    fn doom(&mut self, share: f64) -> Vec<Option<Waker>> {
        if share <= 0.0 {
            return Vec::new();
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is from 0 to 8")]
        let classes = ((share.min(1.0) * f64::from(CLASSES)) as u32 + 1).min(CLASSES);
        let power = self.power;
        let mut streams: Vec<(u32, &mut Stream)> = self
            .streams
            .iter_mut()
            .map(|(_, stream)| (class(stream.held, power), stream))
            .filter(|(class, stream)| *class >= CLASSES - classes && !stream.is_doomed)
            .collect();
        streams.sort_by_key(|(class, _)| std::cmp::Reverse(*class));
        let doomed = streams.into_iter().take(MOST);
        doomed
            .map(|(_, stream)| {
                stream.is_doomed = true;
                stream.waker.take()
            })
            .collect()
    }
}

/// The class of what holds so much, which is `2 ^ power` or more.
fn class(held: usize, power: u32) -> u32 {
    held.checked_ilog2().unwrap_or(0).saturating_sub(power).min(CLASSES - 1)
}

/// What one stream holds.
#[derive(Debug)]
pub(crate) struct Weight {
    /// 0 if it is not tracked.
    power: u32,
    place: Option<usize>,
}

impl Weight {
    /// It holds nothing yet.
    pub(crate) fn new() -> Self {
        Self { power: TRACKED.with_borrow(|tracked| tracked.power), place: None }
    }

    /// Whether it is worth while to say what the stream holds.
    pub(crate) fn is_tracked(&self) -> bool {
        self.power > 0
    }

    /// It holds so much now.
    pub(crate) fn set(&mut self, held: usize) {
        let is_heavy = held.checked_shr(self.power).is_some_and(|rest| rest > 0);
        TRACKED.with_borrow_mut(|tracked| match self.place {
            Some(place) if is_heavy => {
                if let Some(stream) = tracked.streams.get_mut(place) {
                    stream.held = held;
                }
            }
            // (One that is to be reset is, though it has become light.)
            Some(place) if tracked.streams.get(place).is_some_and(|stream| !stream.is_doomed) => {
                tracked.streams.remove(place);
                self.place = None;
            }
            None if is_heavy => {
                self.place = Some(tracked.streams.insert(Stream { held, is_doomed: false, waker: None }));
            }
            Some(_) | None => {}
        });
    }

    /// Ready when the stream is to be reset.
    pub(crate) fn poll_doomed(&self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(place) = self.place else { return Poll::Pending };
        TRACKED.with_borrow_mut(|tracked| match tracked.streams.get_mut(place) {
            Some(stream) if stream.is_doomed => Poll::Ready(()),
            Some(stream) => {
                if !stream.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                    stream.waker = Some(cx.waker().clone());
                }
                Poll::Pending
            }
            None => Poll::Pending,
        })
    }
}

impl Drop for Weight {
    fn drop(&mut self) {
        let Some(place) = self.place else { return };
        // The thread may be past its locals when a task is dropped at exit.
        let _ = TRACKED.try_with(|tracked| tracked.borrow_mut().streams.try_remove(place));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    fn doomed(weights: &[Weight]) -> Vec<bool> {
        let mut cx = Context::from_waker(Waker::noop());
        weights.iter().map(|weight| weight.poll_doomed(&mut cx).is_ready()).collect()
    }

    fn weights(held: &[usize]) -> Vec<Weight> {
        track(20);
        let weigh = |held: &usize| {
            let mut weight = Weight::new();
            weight.set(*held);
            weight
        };
        held.iter().map(weigh).collect()
    }

    /// The example of Envoy's documentation.
    #[test]
    fn the_heaviest_go_first() {
        let weights = weights(&[MIB - 1, MIB, 3 * MIB, 64 * MIB, 500 * MIB]);
        assert_eq!(reset(0.0), 0);
        assert_eq!(reset(0.01), 1);
        assert_eq!(doomed(&weights), [false, false, false, false, true]);
        assert_eq!(reset(0.05), 0, "once is enough");
        assert_eq!(reset(0.13), 1);
        assert_eq!(doomed(&weights), [false, false, false, true, true]);
        assert_eq!(reset(0.8), 1);
        assert_eq!(doomed(&weights), [false, false, true, true, true]);
        assert_eq!(reset(1.0), 1);
        assert_eq!(doomed(&weights), [false, true, true, true, true]);
    }

    #[test]
    fn no_more_than_fifty_go_at_once() {
        let mut weights = weights(&[MIB; 70]);
        weights[60].set(200 * MIB);
        assert_eq!(reset(1.0), 50);
        assert!(doomed(&weights)[60], "the heaviest is among them");
        assert_eq!(reset(1.0), 20);
        drop(weights);
        assert_eq!(TRACKED.with_borrow(|tracked| tracked.streams.len()), 0);
    }

    #[test]
    fn what_becomes_light_is_forgotten() {
        let mut weights = weights(&[MIB]);
        weights[0].set(10);
        assert_eq!(reset(1.0), 0);
        weights[0].set(2 * MIB);
        assert_eq!(reset(1.0), 1);
        weights[0].set(0);
        assert_eq!(doomed(&weights), [true], "it was told so already");
    }

    #[test]
    fn nothing_is_tracked_that_nobody_asked_for() {
        // (On a worker of its own: others may have been asked.)
        let is_tracked = std::thread::spawn(|| Weight::new().is_tracked()).join().unwrap();
        assert!(!is_tracked);
    }
}
