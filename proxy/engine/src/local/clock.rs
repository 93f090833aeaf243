//! Time on a worker: the monotonic clock, read once a turn of the loop, the wall clock derived from it, and the cached `date`
//! header.

use http::HeaderValue;
use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant, SystemTime};

/// How long a derived wall clock is trusted before the real one is read again.
const WALL_CLOCK_AGE: Duration = Duration::from_secs(1);

/// How often one reading of the monotonic clock is used: a turn with much to do takes time itself.
const USES: u32 = 64;

thread_local! {
    /// The last reading and how often it may still be used; `None` where nobody tells when a turn begins.
    static TURN: Cell<Option<(Instant, u32)>> = const { Cell::new(None) };
    /// How many turns began.
    static TURNS: Cell<u64> = const { Cell::new(0) };
    static WALL: Cell<Option<(Instant, SystemTime)>> = const { Cell::new(None) };
    static DATE: RefCell<(u64, HeaderValue)> = const { RefCell::new((0, HeaderValue::from_static(""))) };
}

/// A turn of this thread's loop begins, or time has passed in some other way: the next reading is a real one.
///
/// Who calls this once must call it after every wait.
pub fn turn() {
    TURNS.set(TURNS.get().wrapping_add(1));
    if let Some((at, _)) = TURN.get() {
        TURN.set(Some((at, 0)));
    } else {
        TURN.set(Some((Instant::now(), 0)));
    }
}

/// How many turns of this thread's loop began so far: how much it did.
pub(crate) fn turns() -> u64 {
    TURNS.get()
}

/// The monotonic clock, as it was when this turn first asked: what happens in one turn happens at once, and a reading costs
/// as much as finding a route. What must not be early (whether a deadline has passed) reads `Instant::now`.
pub fn now() -> Instant {
    match TURN.get() {
        Some((at, uses)) if uses > 0 => {
            TURN.set(Some((at, uses - 1)));
            at
        }
        Some(_) => {
            let at = Instant::now();
            TURN.set(Some((at, USES)));
            at
        }
        None => Instant::now(),
    }
}

/// The wall clock at `instant`: one system call a second, an addition otherwise.
pub fn wall(instant: Instant) -> SystemTime {
    if let Some((base, time)) = WALL.get()
        && let Some(age) = instant.checked_duration_since(base)
        && age < WALL_CLOCK_AGE
    {
        return time + age;
    }
    let time = SystemTime::now();
    WALL.set(Some((instant, time)));
    time
}

/// The value of the `date` header at `time` (RFC 9110, 5.6.7), formatted once a second.
pub fn date(time: SystemTime) -> HeaderValue {
    let seconds = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    DATE.with_borrow_mut(|(cached, value)| {
        if *cached != seconds {
            *cached = seconds;
            if let Ok(formatted) = HeaderValue::from_str(&httpdate::fmt_http_date(time)) {
                *value = formatted;
            }
        }
        value.clone()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_reads_once_and_a_long_one_again() {
        assert!(TURN.get().is_none() && now() <= Instant::now(), "without turns every reading is real");
        turn();
        let first = now();
        assert!((1..=USES).all(|_| now() == first), "the clock stands still");
        std::thread::sleep(Duration::from_nanos(1));
        assert!(now() > first, "for so many readings only");
        let before = Instant::now();
        turn();
        assert!(now() >= before);
        // Other tests may run on this thread, and tell of no turns.
        TURN.set(None);
    }
}
