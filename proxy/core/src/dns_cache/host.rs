//! One host of a cache.

use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use hashbrown::Equivalent;
use tokio::sync::Notify;

use super::{Answer, Wanted};

/// A host that somebody wanted to go to: a name with a port, and what DNS says of it.
#[derive(Debug)]
pub struct DnsHost {
    name: Box<str>,
    port: u16,
    /// What a URL calls it, with the port.
    pub hostname: Arc<str>,
    answer: ArcSwapOption<Answer>,
    answered: Notify,
    begun: Instant,
    /// When somebody went there, in milliseconds after `begun`.
    used: AtomicU64,
}

/// A host that is gone to more often than this is marked no more often.
const MARKED: u64 = 100;

impl DnsHost {
    /// Of which nothing is known, wanted `now`.
    pub fn new(wanted: Wanted<'_>, now: Instant) -> Self {
        Self {
            name: wanted.name.into(),
            port: wanted.port,
            hostname: wanted.to_string().into(),
            answer: ArcSwapOption::empty(),
            answered: Notify::new(),
            begun: now,
            used: AtomicU64::new(0),
        }
    }

    /// The name and the port.
    pub fn wanted(&self) -> Wanted<'_> {
        Wanted { name: &self.name, port: self.port }
    }

    /// What is known, if anything is.
    pub fn answer(&self) -> Option<Answer> {
        self.answer.load().as_deref().cloned()
    }

    /// This is known from now on.
    pub fn set(&self, answer: Answer) {
        self.answer.store(Some(Arc::new(answer)));
    }

    /// Lets all go on who wait for an answer.
    pub fn wake(&self) {
        self.answered.notify_waiters();
    }

    /// Ready when something is known. Cancel-safe.
    pub async fn answered(&self) -> Answer {
        loop {
            let answered = self.answered.notified();
            if let Some(answer) = self.answer() {
                return answer;
            }
            answered.await;
        }
    }

    /// Somebody goes there.
    pub fn touch(&self, now: Instant) {
        let now = self.millis(now);
        // (A word that nobody writes is one that all may read.)
        if now.saturating_sub(self.used.load(Ordering::Relaxed)) >= MARKED {
            self.used.store(now, Ordering::Relaxed);
        }
    }

    /// For how long nobody went there.
    pub fn unused_for(&self, now: Instant) -> Duration {
        Duration::from_millis(self.millis(now).saturating_sub(self.used.load(Ordering::Relaxed)))
    }

    fn millis(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.begun).as_millis()).unwrap_or(u64::MAX)
    }
}

/// A host as the key of a map, where it is found by what is [`Wanted`].
#[derive(Clone, Debug)]
pub struct HostKey(pub Arc<DnsHost>);

impl Hash for HostKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.wanted().hash(state);
    }
}

impl PartialEq for HostKey {
    fn eq(&self, other: &Self) -> bool {
        self.0.wanted() == other.0.wanted()
    }
}

impl Eq for HostKey {}

impl Equivalent<HostKey> for Wanted<'_> {
    fn equivalent(&self, key: &HostKey) -> bool {
        *self == key.0.wanted()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_knows_since_when_nobody_went_there() {
        let begun = Instant::now();
        let after = |millis| begun + Duration::from_millis(millis);
        let host = DnsHost::new(Wanted { name: "a.test", port: 80 }, begun);
        assert_eq!(host.unused_for(after(10)), Duration::from_millis(10));
        host.touch(after(50));
        assert_eq!(host.unused_for(after(50)), Duration::from_millis(50), "too soon to be marked");
        host.touch(after(100));
        assert_eq!(host.unused_for(after(150)), Duration::from_millis(50));
    }

    #[tokio::test]
    async fn all_who_wait_get_the_answer() {
        let host = Arc::new(DnsHost::new(Wanted { name: "a.test", port: 80 }, Instant::now()));
        let waiting: Vec<_> = (0..3)
            .map(|_| {
                let host = host.clone();
                tokio::spawn(async move { host.answered().await })
            })
            .collect();
        tokio::task::yield_now().await;
        assert!(host.answer().is_none());
        host.set(Err("no".into()));
        host.wake();
        for one in waiting {
            assert_eq!(one.await.unwrap().unwrap_err().as_ref(), "no");
        }
        assert!(host.answered().await.is_err(), "it is known");
    }
}
