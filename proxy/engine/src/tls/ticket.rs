//! Tickets of sessions under keys of one's own (`TlsSessionTicketKeys`), so that several proxies resume each other's sessions.
//!
//! As in Envoy a key is 80 octets, the first one of a list seals, and all of them open. What is sealed is ours: AES-256-GCM-SIV,
//! with the name of the key in front. A ticket opens only where clients are shown certificates of the same names, and asked for the same, as
//! where it was sealed: who shares the keys among listeners does not share what those let in. A ticket tells when it was sealed, and ends when it says, whoever has it.

use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::hmac;
use proxy_core::config::{BuildCx, Rejected};
use rustls::pki_types::UnixTime;
use rustls::server::{ProducesTickets, StoresServerSessions};
use xds_api::envoy::extensions::transport_sockets::tls::v3::TlsSessionTicketKeys;

use super::source;

/// Octets of a key: a name, and two halves of a secret.
const KEY: usize = 80;
const NAME: usize = 16;
const HALF: usize = 32;
/// How long sessions may be resumed, in seconds: the default of BoringSSL.
pub(super) const LIFETIME: u32 = 2 * 60 * 60;

/// Keys, the one that seals first.
pub(super) struct TicketKeys(Vec<Key>);

struct Key {
    name: [u8; NAME],
    key: LessSafeKey,
}

impl std::fmt::Debug for TicketKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TicketKeys").finish_non_exhaustive()
    }
}

impl TicketKeys {
    pub(super) fn build(proto: &TlsSessionTicketKeys, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let keys = cx.each("keys", &proto.keys, |one, cx| {
            let content = source::read(Some(one), cx)?;
            let bytes = content.map(|content| content.bytes).unwrap_or_default();
            Key::new(&bytes).ok_or_else(|| {
                let length = bytes.len();
                cx.reject(format!(
                    "Incorrect TLS session ticket key length. Length {length}, expected length {KEY}."
                ))
            })
        })?;
        if keys.is_empty() {
            return Err(cx.reject("keys: value must contain at least 1 item(s)"));
        }
        Ok(Self(keys))
    }
}

impl Key {
    fn new(bytes: &[u8]) -> Option<Self> {
        let (name, rest) = bytes.split_first_chunk::<NAME>()?;
        let (first, rest) = rest.split_first_chunk::<HALF>()?;
        let second: &[u8; HALF] = rest.try_into().ok()?;
        let mixed = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, first), second);
        let key = UnboundKey::new(&AES_256_GCM_SIV, mixed.as_ref()).ok()?;
        Some(Self { name: *name, key: LessSafeKey::new(key) })
    }
}

/// What seals and opens tickets of one context.
#[derive(Debug)]
pub(super) struct Tickets {
    pub(super) keys: Arc<TicketKeys>,
    /// What is shown to clients there, and asked of them.
    pub(super) context: [u8; 32],
}

impl Tickets {
    fn aad(&self, name: &[u8; NAME]) -> Aad<Vec<u8>> {
        Aad::from([&name[..], &self.context].concat())
    }
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        LIFETIME
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let key = self.keys.0.first()?;
        let mut nonce = [0; NONCE_LEN];
        aws_lc_rs::rand::fill(&mut nonce).ok()?;
        let mut sealed = plain.to_vec();
        let unique = Nonce::assume_unique_for_key(nonce);
        key.key.seal_in_place_append_tag(unique, self.aad(&key.name), &mut sealed).ok()?;
        Some([&key.name[..], &nonce, &sealed].concat())
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let (name, rest) = ticket.split_first_chunk::<NAME>()?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>()?;
        let mut opened = sealed.to_vec();
        let mut keys = self.keys.0.iter().filter(|key| key.name == *name);
        let count = keys.find_map(|key| {
            opened.clear();
            opened.extend_from_slice(sealed);
            let nonce = Nonce::assume_unique_for_key(*nonce);
            Some(key.key.open_in_place(nonce, self.aad(name), &mut opened).ok()?.len())
        })?;
        opened.truncate(count);
        Some(opened)
    }
}

/// Octets of the moment at which a session was put away, in front of it.
const MOMENT: usize = 8;

/// Sessions that end, in tickets or where they are kept.
#[derive(Debug)]
pub(super) struct Ending<T: ?Sized> {
    /// Seconds.
    lifetime: u32,
    inner: Arc<T>,
}

impl<T: ?Sized> Ending<T> {
    pub(super) fn new(inner: Arc<T>, lifetime: u32) -> Self {
        Self { lifetime, inner }
    }

    /// Seconds since 1970.
    fn now() -> u64 {
        UnixTime::now().as_secs()
    }

    fn stamped(session: &[u8], now: u64) -> Vec<u8> {
        [&now.to_be_bytes()[..], session].concat()
    }

    /// The session, while it may be resumed.
    fn fresh(&self, mut stamped: Vec<u8>, now: u64) -> Option<Vec<u8>> {
        let began = u64::from_be_bytes(*stamped.first_chunk::<MOMENT>()?);
        // (A clock elsewhere may be ahead.)
        let is_fresh = now.saturating_sub(began) < u64::from(self.lifetime);
        is_fresh.then(|| stamped.split_off(MOMENT))
    }
}

impl ProducesTickets for Ending<dyn ProducesTickets> {
    fn enabled(&self) -> bool {
        self.inner.enabled()
    }

    fn lifetime(&self) -> u32 {
        self.lifetime
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.inner.encrypt(&Self::stamped(plain, Self::now()))
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        self.fresh(self.inner.decrypt(ticket)?, Self::now())
    }
}

impl StoresServerSessions for Ending<dyn StoresServerSessions> {
    fn put(&self, key: Vec<u8>, value: Vec<u8>) -> bool {
        self.inner.put(key, Self::stamped(&value, Self::now()))
    }

    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.fresh(self.inner.get(key)?, Self::now())
    }

    fn take(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.fresh(self.inner.take(key)?, Self::now())
    }

    fn can_cache(&self) -> bool {
        self.inner.can_cache()
    }
}

#[cfg(test)]
mod tests {
    use rustls::server::ServerSessionMemoryCache;

    use super::*;

    fn keys(numbers: &[u8]) -> Arc<TicketKeys> {
        Arc::new(TicketKeys(numbers.iter().map(|number| Key::new(&[*number; KEY]).unwrap()).collect()))
    }

    fn tickets(numbers: &[u8], context: u8) -> Tickets {
        Tickets { keys: keys(numbers), context: [context; 32] }
    }

    #[test]
    fn the_first_key_seals_and_all_open() {
        let sealed = tickets(&[1, 2], 0).encrypt(b"session").unwrap();
        assert_eq!(tickets(&[2, 1], 0).decrypt(&sealed).as_deref(), Some(&b"session"[..]));
        assert_eq!(tickets(&[2, 3], 0).decrypt(&sealed), None);
        assert_eq!(tickets(&[1], 1).decrypt(&sealed), None, "what is asked of clients differs");
    }

    #[test]
    fn a_session_ends() {
        let ending = Ending::<dyn ProducesTickets>::new(Arc::new(tickets(&[1], 0)), 60);
        assert_eq!(ending.lifetime(), 60);
        let stamped = Ending::<dyn ProducesTickets>::stamped(b"session", 1_000);
        assert_eq!(ending.fresh(stamped.clone(), 1_059).as_deref(), Some(&b"session"[..]));
        assert_eq!(ending.fresh(stamped.clone(), 1_060), None);
        assert_eq!(ending.fresh(stamped, 990).as_deref(), Some(&b"session"[..]));
        assert_eq!(ending.fresh(b"short".to_vec(), 0), None);
        let sealed = ending.encrypt(b"session").unwrap();
        assert_eq!(ending.decrypt(&sealed).as_deref(), Some(&b"session"[..]));
        let over = Ending::<dyn ProducesTickets>::new(Arc::new(tickets(&[1], 0)), 0);
        assert_eq!(over.decrypt(&sealed), None);
    }

    #[test]
    fn a_session_that_is_kept_ends() {
        let kept = ServerSessionMemoryCache::new(4);
        let ending = Ending::<dyn StoresServerSessions>::new(kept.clone(), 60);
        let over = Ending::<dyn StoresServerSessions>::new(kept, 0);
        assert!(ending.put(b"id".to_vec(), b"session".to_vec()));
        assert_eq!(over.get(b"id"), None);
        assert_eq!(ending.get(b"id").as_deref(), Some(&b"session"[..]));
        assert_eq!(ending.take(b"id").as_deref(), Some(&b"session"[..]));
        assert_eq!(ending.take(b"id"), None);
    }

    #[test]
    fn what_was_tampered_with_does_not_open() {
        let one = tickets(&[1], 0);
        let sealed = one.encrypt(b"session").unwrap();
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert_eq!(one.decrypt(&changed), None, "octet {at}");
            assert_eq!(one.decrypt(&sealed[..at]), None, "{at} octets");
        }
    }

    #[test]
    fn every_octet_of_a_key_counts() {
        let sealed = tickets(&[1], 0).encrypt(b"session").unwrap();
        for at in 0..KEY {
            let mut bytes = [1; KEY];
            bytes[at] = 2;
            let other =
                Tickets { keys: Arc::new(TicketKeys(vec![Key::new(&bytes).unwrap()])), context: [0; 32] };
            assert_eq!(other.decrypt(&sealed), None, "octet {at}");
        }
        assert!(Key::new(&[0; KEY - 1]).is_none() && Key::new(&[0; KEY + 1]).is_none());
    }
}
