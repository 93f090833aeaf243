//! The cookies of one HTTP/2 connection: crumbs become one header (RFC 9113, 8.2.3), which copies what HPACK shares.
//!
//! A crumb that is in the dynamic table takes an octet on the wire and no memory of its own; joined, it takes its length in each
//! stream. So streams with the same crumbs share one copy, and how much copies of different ones may hold is limited: by a sum
//! that ordinary clients do not reach, and beyond it by what the client itself sent.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use bytes::Bytes;
use http::header::{COOKIE, GetAll, HeaderMap, HeaderValue};

use super::h2_server::Malformed;

/// What the joined cookies of a connection may hold whatever was sent.
const FREE: usize = 256 * 1024;
/// How many times what was sent they may hold beyond that.
const TIMES: usize = 16;
/// From how many crumbs on the room for them is given back.
const MANY: usize = 8;

/// The joined cookies of one connection.
pub(crate) struct Cookies {
    /// The last, while a stream has it.
    last: RefCell<Weak<Joined>>,
    held: Arc<AtomicUsize>,
    /// Octets that the client sent on the connection as heads.
    received: Rc<Cell<u64>>,
}

/// Counts as held while a stream has it.
struct Joined {
    text: Vec<u8>,
    held: Arc<AtomicUsize>,
}

impl Drop for Joined {
    fn drop(&mut self) {
        self.held.fetch_sub(self.text.len(), Ordering::Relaxed);
    }
}

struct Owner(Arc<Joined>);

impl AsRef<[u8]> for Owner {
    fn as_ref(&self) -> &[u8] {
        &self.0.text
    }
}

impl Cookies {
    /// None yet, on a connection that counts its heads in `received`.
    pub(crate) fn new(received: Rc<Cell<u64>>) -> Self {
        Self { last: RefCell::default(), held: Arc::default(), received }
    }

    /// Makes one header of the crumbs in `headers`.
    pub(crate) fn join(&self, headers: &mut HeaderMap) -> Result<(), Malformed> {
        let crumbs = headers.get_all(COOKIE);
        if crumbs.iter().nth(1).is_none() {
            return Ok(());
        }
        let are_many = crumbs.iter().nth(MANY).is_some();
        let last = self.last.borrow().upgrade();
        let joined = match last.filter(|last| is_joined(&last.text, &crumbs)) {
            Some(last) => last,
            None => self.joined(&crumbs)?,
        };
        // Values and separators that may stand in a header make one that may.
        if let Ok(value) = HeaderValue::from_maybe_shared(Bytes::from_owner(Owner(joined))) {
            headers.insert(COOKIE, value);
        }
        if are_many {
            // The map keeps the room for each of them.
            *headers = headers.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
        }
        Ok(())
    }

    fn joined(&self, crumbs: &GetAll<'_, HeaderValue>) -> Result<Arc<Joined>, Malformed> {
        let length = crumbs.iter().map(|crumb| crumb.len() + 2).sum::<usize>().saturating_sub(2);
        let sent = usize::try_from(self.received.get()).unwrap_or(usize::MAX);
        let before = self.held.load(Ordering::Relaxed);
        if before.saturating_add(length) > FREE.saturating_add(sent.saturating_mul(TIMES)) {
            return Err(Malformed::TooManyCookies);
        }
        let mut text = Vec::with_capacity(length);
        for (position, crumb) in crumbs.iter().enumerate() {
            if position > 0 {
                text.extend_from_slice(b"; ");
            }
            text.extend_from_slice(crumb.as_bytes());
        }
        self.held.fetch_add(text.len(), Ordering::Relaxed);
        let joined = Arc::new(Joined { text, held: self.held.clone() });
        *self.last.borrow_mut() = Arc::downgrade(&joined);
        Ok(joined)
    }
}

/// Whether `text` is what `crumbs` become.
fn is_joined(text: &[u8], crumbs: &GetAll<'_, HeaderValue>) -> bool {
    let mut is_first = true;
    let rest = crumbs.iter().try_fold(text, |rest, crumb| {
        let separator: &[u8] =
            if rest.len() == text.len() && std::mem::take(&mut is_first) { b"" } else { b"; " };
        rest.strip_prefix(separator)?.strip_prefix(crumb.as_bytes())
    });
    rest.is_some_and(<[u8]>::is_empty)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(crumbs: &[&str]) -> HeaderMap {
        crumbs.iter().map(|crumb| (COOKIE, crumb.parse().unwrap())).collect()
    }

    fn join(cookies: &Cookies, crumbs: &[&str]) -> Result<HeaderValue, Malformed> {
        let mut headers = headers(crumbs);
        cookies.join(&mut headers)?;
        let all: Vec<&HeaderValue> = headers.get_all(COOKIE).iter().collect();
        assert_eq!(all.len(), 1);
        Ok(all[0].clone())
    }

    #[test]
    fn crumbs_become_one_header_that_streams_share() {
        let cookies = Cookies::new(Rc::default());
        let first = join(&cookies, &["a=1", "b=2"]).unwrap();
        assert_eq!(first, "a=1; b=2");
        let second = join(&cookies, &["a=1", "b=2"]).unwrap();
        assert_eq!(second.as_bytes().as_ptr(), first.as_bytes().as_ptr());
        for (crumbs, joined) in [
            (vec!["a=1", "b=2", ""], "a=1; b=2; "),
            (vec!["a=1; b", "=2"], "a=1; b; =2"),
            (vec!["a", "=1; b=2"], "a; =1; b=2"),
            (vec!["a=1"], "a=1"),
            (vec!["", ""], "; "),
        ] {
            assert_eq!(join(&cookies, &crumbs).unwrap(), joined);
            assert!(join(&cookies, &["a=1", "b=2"]).unwrap() == "a=1; b=2");
        }
        drop((first, second));
        assert_eq!(cookies.held.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn different_cookies_hold_no_more_than_is_free_and_what_was_sent_allows() {
        // A hundred streams with 4 KiB each are ordinary, even if all but one crumb comes from the table.
        let received = Rc::new(Cell::new(4096 + 100 * 60));
        let cookies = Cookies::new(received.clone());
        let crumb = "c".repeat(4096);
        let held: Vec<HeaderValue> =
            (0..100).map(|n| join(&cookies, &[&format!("n={n}"), &crumb]).unwrap()).collect();
        let more = |n: usize| join(&cookies, &[&format!("m={n}"), &crumb]);
        let mut others: Vec<HeaderValue> = (0..100).map_while(|n| more(n).ok()).collect();
        let sum: usize = held.iter().chain(&others).map(HeaderValue::len).sum();
        let allowed = FREE + 16 * (4096 + 100 * 60);
        assert!((allowed - 5000..=allowed).contains(&sum), "{sum}");
        assert_eq!(more(1000).err(), Some(Malformed::TooManyCookies));
        received.set(received.get() + 1024);
        others.extend((2000..2003).map(|n| more(n).unwrap()));
        assert!(more(3000).is_ok());
        drop(others);
        assert!((4000..4020).all(|n| more(n).is_ok()));
    }
}
