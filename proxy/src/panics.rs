//! What is told about a panic: each is counted in `server.envoy_bug_failures`, the counter that Envoy has for what should never
//! happen; the first of each place is logged with where it came from. What a panic ends is up to the task it happens in.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::panic::{Location, PanicHookInfo};
use std::sync::{Arc, Mutex, PoisonError};

use proxy_core::stats::groups::ServerStats;
use proxy_core::stats::{Registry, Shared};

/// Places that are told apart; whoever finds more has told enough.
const MOST_PLACES: usize = 64;

/// Has panics counted and logged from now on.
pub fn watch(stats: &Arc<Registry>) {
    let server = stats.scope("server").shared::<ServerStats>();
    let seen = Mutex::new(Vec::new());
    std::panic::set_hook(Box::new(move |panic| report(panic, &server, &seen)));
}

fn report(panic: &PanicHookInfo<'_>, server: &Shared<ServerStats>, seen: &Mutex<Vec<(String, u32)>>) {
    server.envoy_bug_failures.inc();
    let Some(place) = panic.location() else { return };
    if is_new(place, seen) {
        let thread = std::thread::current();
        let thread = thread.name().unwrap_or("a thread").to_owned();
        let text = panic.payload_as_str().unwrap_or("no text");
        // To name the frames costs a hundred megabytes where there are debug symbols: who wants them says `RUST_BACKTRACE=1`.
        let from = Backtrace::capture();
        match from.status() {
            BacktraceStatus::Captured => tracing::error!("{thread} panicked at {place}: {text}\n{from}"),
            _ => tracing::error!("{thread} panicked at {place}: {text}"),
        }
    }
}

fn is_new(place: &Location<'_>, seen: &Mutex<Vec<(String, u32)>>) -> bool {
    let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
    let key = (place.file().to_owned(), place.line());
    let is_new = seen.len() < MOST_PLACES && !seen.contains(&key);
    if is_new {
        seen.push(key);
    }
    is_new
}
