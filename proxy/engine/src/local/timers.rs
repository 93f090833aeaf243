//! Deadlines on a worker: cheap to move, precise to 10 ms.
//!
//! A [`Timer`] is armed again and again over the life of a connection, nearly always to a later time. So arming to a
//! later time writes nothing but the owner's own deadline: the entry stays where it is, fires early once, and the
//! owner, polled, arms it anew. Only an earlier deadline touches the queue.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use smallvec::SmallVec;
use std::rc::Rc;
use tokio::sync::Notify;

const TICKS_A_SECOND: u64 = 100;
const TICK_NANOS: u32 = 10_000_000;
/// Precision of deadlines.
const TICK: Duration = Duration::from_nanos(TICK_NANOS as u64);

#[derive(Default)]
struct Entry {
    /// Tick at which the queue holds this entry; `None` when it fired or was never armed.
    queued: Option<u64>,
    waker: Option<Waker>,
    /// The deadline that the queued tick was made of.
    armed: Option<Instant>,
}

struct Wheel {
    start: Instant,
    entries: slab::Slab<Entry>,
    queue: BTreeMap<u64, SmallVec<[usize; 4]>>,
    earlier: Rc<Notify>,
}

thread_local! {
    static WHEEL: RefCell<Wheel> = RefCell::new(Wheel {
        start: Instant::now(),
        entries: slab::Slab::new(),
        queue: BTreeMap::new(),
        earlier: Rc::new(Notify::new()),
    });
}

impl Wheel {
    /// The first tick that is not before `at`.
    fn tick(&self, at: Instant) -> u64 {
        let since = at.saturating_duration_since(self.start);
        since.as_secs() * TICKS_A_SECOND + u64::from(since.subsec_nanos().div_ceil(TICK_NANOS))
    }

    fn instant(&self, tick: u64) -> Instant {
        let ticks = u32::try_from(tick).unwrap_or(u32::MAX);
        self.start + TICK.saturating_mul(ticks)
    }

    fn enqueue(&mut self, key: usize, tick: u64) {
        let is_first = self.queue.first_key_value().is_none_or(|(first, _)| tick < *first);
        self.queue.entry(tick).or_default().push(key);
        self.entries[key].queued = Some(tick);
        if is_first {
            self.earlier.notify_one();
        }
    }

    fn dequeue(&mut self, key: usize) {
        let Some(tick) = self.entries[key].queued.take() else { return };
        if let Some(keys) = self.queue.get_mut(&tick) {
            keys.retain(|other| *other != key);
            if keys.is_empty() {
                self.queue.remove(&tick);
            }
        }
    }

    /// Takes the wakers of everything due at `now`.
    fn fire(&mut self, now: Instant) -> SmallVec<[Waker; 8]> {
        let mut due = SmallVec::new();
        while let Some(first) = self.queue.first_entry() {
            if self.start + TICK.saturating_mul(u32::try_from(*first.key()).unwrap_or(u32::MAX)) > now {
                break;
            }
            for key in first.remove() {
                let entry = &mut self.entries[key];
                entry.queued = None;
                due.extend(entry.waker.take());
            }
        }
        due
    }
}

/// One deadline, owned by one connection or stream; dropping it takes it out of the queue.
#[derive(Debug)]
pub struct Timer {
    key: usize,
}

impl Default for Timer {
    fn default() -> Self {
        Self { key: WHEEL.with_borrow_mut(|wheel| wheel.entries.insert(Entry::default())) }
    }
}

impl Timer {
    /// Ready once `deadline` has passed; otherwise arranges for the task to be polled again by then.
    ///
    /// Wake-ups may come early: the task polls again and nothing is lost.
    pub fn poll(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        WHEEL.with_borrow_mut(|wheel| {
            let entry = &wheel.entries[self.key];
            let is_queued = entry.queued.is_some();
            if !is_queued && Instant::now() >= deadline {
                return Poll::Ready(());
            }
            // An entry that fires too early is queued anew then: deadlines that move on cost nothing until they pass.
            if !is_queued || entry.armed.is_none_or(|armed| deadline < armed) {
                wheel.dequeue(self.key);
                let tick = wheel.tick(deadline);
                wheel.enqueue(self.key, tick);
                wheel.entries[self.key].armed = Some(deadline);
            }
            let entry = &mut wheel.entries[self.key];
            if !entry.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                entry.waker = Some(cx.waker().clone());
            }
            Poll::Pending
        })
    }

    /// Nobody waits for the time being; the entry stays in the queue for whoever polls next.
    pub fn rest(&mut self) {
        WHEEL.with_borrow_mut(|wheel| wheel.entries[self.key].waker = None);
    }

    /// Waits until `deadline`.
    pub async fn until(&mut self, deadline: Instant) {
        std::future::poll_fn(|cx| self.poll(cx, deadline)).await;
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        // The thread may be past its locals when a task is dropped at exit.
        let _ = WHEEL.try_with(|wheel| {
            let mut wheel = wheel.borrow_mut();
            wheel.dequeue(self.key);
            wheel.entries.remove(self.key);
        });
    }
}

/// Has everybody who waits for a deadline look at it anew: it may have come nearer.
pub(crate) fn wake_all() {
    // (A waker may run code of ours: nothing is borrowed meanwhile.)
    let wakers: Vec<Waker> = WHEEL
        .with_borrow(|wheel| wheel.entries.iter().filter_map(|(_, entry)| entry.waker.clone()).collect());
    wakers.into_iter().for_each(Waker::wake);
}

/// Fires the deadlines of this thread; runs for as long as the worker does.
pub async fn drive() {
    let earlier = WHEEL.with_borrow(|wheel| wheel.earlier.clone());
    loop {
        let next =
            WHEEL.with_borrow(|wheel| wheel.queue.first_key_value().map(|(tick, _)| wheel.instant(*tick)));
        match next {
            None => earlier.notified().await,
            Some(at) => tokio::select! {
                () = tokio::time::sleep_until(at.into()) => {
                    for waker in WHEEL.with_borrow_mut(|wheel| wheel.fire(Instant::now())) {
                        waker.wake();
                    }
                }
                () = earlier.notified() => {}
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_fire_in_order_and_moving_later_keeps_the_entry() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, async {
            tokio::task::spawn_local(drive());
            let start = Instant::now();
            let mut late = Timer::default();
            let mut soon = Timer::default();
            let late = async {
                late.until(start + Duration::from_millis(60)).await;
                Instant::now()
            };
            let soon = async {
                soon.until(start + Duration::from_millis(20)).await;
                Instant::now()
            };
            let (late, soon) = tokio::join!(late, soon);
            assert!(soon >= start + Duration::from_millis(20));
            assert!(late >= start + Duration::from_millis(60) && soon < late);

            let mut moved = Timer::default();
            std::future::poll_fn(|cx| {
                assert!(moved.poll(cx, start + Duration::from_secs(10)).is_pending());
                let queued = WHEEL.with_borrow(|wheel| wheel.entries[moved.key].queued);
                assert!(moved.poll(cx, start + Duration::from_secs(20)).is_pending());
                assert_eq!(queued, WHEEL.with_borrow(|wheel| wheel.entries[moved.key].queued));
                assert!(moved.poll(cx, start + Duration::from_secs(5)).is_pending());
                assert!(queued > WHEEL.with_borrow(|wheel| wheel.entries[moved.key].queued));
                Poll::Ready(())
            })
            .await;
            drop(moved);
            assert!(WHEEL.with_borrow(|wheel| wheel.queue.is_empty()));
        });
    }

    #[test]
    fn a_deadline_that_comes_nearer_is_looked_at_when_all_are_woken() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, async {
            tokio::task::spawn_local(drive());
            let deadline = Rc::new(std::cell::Cell::new(Instant::now() + Duration::from_secs(3600)));
            let own = deadline.clone();
            let waits = tokio::task::spawn_local(async move {
                let mut timer = Timer::default();
                std::future::poll_fn(|cx| timer.poll(cx, own.get())).await;
            });
            tokio::task::yield_now().await;
            deadline.set(Instant::now());
            wake_all();
            waits.await.unwrap();
        });
    }
}
