//! Waiting for something observable, with a deadline.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// How often a condition that cannot be subscribed to is looked at again.
const INTERVAL: Duration = Duration::from_millis(2);

/// The deadline of things that are expected to be quick: generous, because tests share the machine.
pub const SOON: Duration = Duration::from_secs(10);

/// Awaits `future` for at most `limit`; the error says what was awaited.
///
/// Cancel safety: that of `future`.
pub async fn within<T>(what: &str, limit: Duration, future: impl Future<Output = T>) -> Result<T> {
    tokio::time::timeout(limit, future).await.with_context(|| format!("{what}: not within {limit:?}"))
}

/// Evaluates `condition` until it gives a value, for at most `limit`; the error says what was awaited.
pub async fn eventually<T, F>(what: &str, limit: Duration, mut condition: F) -> Result<T>
where
    F: AsyncFnMut() -> Option<T>,
{
    let start = Instant::now();
    loop {
        if let Some(value) = condition().await {
            return Ok(value);
        }
        if start.elapsed() > limit {
            bail!("{what}: not within {limit:?}");
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

/// The finished lines of a file that another process writes; none where there is no file. A reader may see the beginning of
/// a line before its end is written: that one is not there yet.
pub fn whole_lines(path: &Path) -> Vec<String> {
    let text = std::fs::read(path).unwrap_or_default();
    let end = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    String::from_utf8_lossy(&text[..end]).lines().map(str::to_owned).collect()
}
