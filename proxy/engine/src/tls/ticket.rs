//! Tickets of sessions under keys of one's own (`TlsSessionTicketKeys`), so that several proxies resume each other's sessions.
//!
//! As in Envoy a key is 80 octets, the first one of a list seals, and all of them open. What is sealed is ours: AES-256-GCM-SIV,
//! with the name of the key in front. A ticket opens only where clients are shown certificates of the same names, and asked for the same, as
//! where it was sealed: who shares the keys among listeners does not share what those let in. It ends when it says, whoever has it.

use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::hmac;
use proxy_core::config::{BuildCx, Rejected};
use rustls::pki_types::UnixTime;
use rustls::server::ProducesTickets;
use xds_api::envoy::extensions::transport_sockets::tls::v3::TlsSessionTicketKeys;

use super::source;

/// Octets of a key: a name, and two halves of a secret.
const KEY: usize = 80;
const NAME: usize = 16;
const HALF: usize = 32;
/// How long tickets may be used, in seconds: the default of BoringSSL.
const LIFETIME: u32 = 2 * 60 * 60;

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

/// Octets of the moment at which a ticket was sealed, in front of the session.
const SEALED: usize = 8;

impl Tickets {
    /// Seconds since 1970.
    fn now() -> u64 {
        UnixTime::now().as_secs()
    }

    /// The session in what was opened, while it may be resumed.
    fn fresh(mut opened: Vec<u8>, now: u64) -> Option<Vec<u8>> {
        let sealed = u64::from_be_bytes(*opened.first_chunk::<SEALED>()?);
        // (A clock elsewhere may be ahead.)
        let is_fresh = now.saturating_sub(sealed) < u64::from(LIFETIME);
        is_fresh.then(|| opened.split_off(SEALED))
    }

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
        let mut sealed = [&Self::now().to_be_bytes()[..], plain].concat();
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
        Self::fresh(opened, Self::now())
    }
}

#[cfg(test)]
mod tests {
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
    fn a_ticket_ends() {
        let opened = |sealed: u64| [&sealed.to_be_bytes()[..], b"session"].concat();
        let end = 1_000 + u64::from(LIFETIME);
        assert_eq!(Tickets::fresh(opened(1_000), end - 1).as_deref(), Some(&b"session"[..]));
        assert_eq!(Tickets::fresh(opened(1_000), end), None);
        assert_eq!(Tickets::fresh(opened(1_000), 990).as_deref(), Some(&b"session"[..]));
        assert_eq!(Tickets::fresh(b"short".to_vec(), 0), None);
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
