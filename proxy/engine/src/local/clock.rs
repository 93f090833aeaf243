//! Time on a worker: the monotonic clock, the wall clock derived from it, and the cached `date` header.

use http::HeaderValue;
use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant, SystemTime};

/// How long a derived wall clock is trusted before the real one is read again.
const WALL_CLOCK_AGE: Duration = Duration::from_secs(1);

thread_local! {
    static WALL: Cell<Option<(Instant, SystemTime)>> = const { Cell::new(None) };
    static DATE: RefCell<(u64, HeaderValue)> = const { RefCell::new((0, HeaderValue::from_static(""))) };
}

/// The monotonic clock.
pub fn now() -> Instant {
    Instant::now()
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
