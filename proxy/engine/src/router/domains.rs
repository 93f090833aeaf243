//! From a host name to a virtual host: exact, then the longest suffix, then the longest prefix, then `*`.

use foldhash::fast::RandomState;
use hashbrown::HashMap;
use proxy_core::config::{BuildCx, Rejected};
use smallvec::SmallVec;

use super::path::PrefixIndex;

/// The domains of a route table; all names in lower case.
#[derive(Debug)]
pub(super) struct Domains {
    exact: HashMap<Box<str>, usize, RandomState>,
    /// `*.example.com`: what follows the star, reversed.
    suffixes: PrefixIndex<usize>,
    /// `example.*`: what precedes the star.
    prefixes: PrefixIndex<usize>,
    default: Option<usize>,
}

/// Collects domains and finds duplicates.
pub(super) struct DomainsBuilder<'n> {
    table: &'n str,
    exact: HashMap<Box<str>, usize, RandomState>,
    suffixes: HashMap<Box<[u8]>, usize, RandomState>,
    prefixes: HashMap<Box<[u8]>, usize, RandomState>,
    default: Option<usize>,
}

type HostBuffer = SmallVec<[u8; 128]>;

impl Domains {
    /// Starts without domains, for the table called `table`.
    pub(super) fn builder(table: &str) -> DomainsBuilder<'_> {
        DomainsBuilder {
            table,
            exact: HashMap::default(),
            suffixes: HashMap::default(),
            prefixes: HashMap::default(),
            default: None,
        }
    }

    /// The virtual host for `host`.
    pub(super) fn find(&self, host: &str) -> Option<usize> {
        if self.exact.is_empty() && self.suffixes.is_empty() && self.prefixes.is_empty() {
            return self.default;
        }
        // All of it is looked at, whatever is found: that takes many octets at once.
        if host.bytes().fold(false, |any, byte| any | byte.is_ascii_uppercase()) {
            let lower: HostBuffer = host.bytes().map(|byte| byte.to_ascii_lowercase()).collect();
            return self.find_lower(std::str::from_utf8(&lower).unwrap_or_default());
        }
        self.find_lower(host)
    }

    fn find_lower(&self, host: &str) -> Option<usize> {
        if let Some(found) = self.exact.get(host) {
            return Some(*found);
        }
        if !self.suffixes.is_empty() {
            let reversed: HostBuffer = host.bytes().rev().collect();
            // A star stands for at least one character.
            if let Some(found) = self.suffixes.longest(&reversed, reversed.len().saturating_sub(1)) {
                return Some(*found);
            }
        }
        if let Some(found) = self.prefixes.longest(host.as_bytes(), host.len().saturating_sub(1)) {
            return Some(*found);
        }
        self.default
    }
}

impl DomainsBuilder<'_> {
    /// Adds the domains of virtual host number `index`.
    pub(super) fn add(
        &mut self,
        domains: &[String],
        index: usize,
        cx: &mut BuildCx<'_>,
    ) -> Result<(), Rejected> {
        if domains.is_empty() {
            return Err(cx.at("domains", |cx| cx.reject("value must contain at least 1 item(s)")));
        }
        cx.each("domains", domains, |domain, cx| self.add_one(domain, index, cx)).map(|_| ())
    }

    fn add_one(&mut self, domain: &str, index: usize, cx: &mut BuildCx<'_>) -> Result<(), Rejected> {
        let lower = domain.to_ascii_lowercase();
        if lower == "*" {
            if self.default.is_some() {
                let table = self.table;
                return Err(cx.reject(format!("Only a single wildcard domain is permitted in route {table}")));
            }
            self.default = Some(index);
            return Ok(());
        }
        let earlier = if let Some(suffix) = lower.strip_prefix('*') {
            self.suffixes.insert(suffix.bytes().rev().collect(), index)
        } else if let Some(prefix) = lower.strip_suffix('*') {
            self.prefixes.insert(prefix.as_bytes().into(), index)
        } else {
            self.exact.insert(lower.as_str().into(), index)
        };
        match earlier {
            None => Ok(()),
            Some(_) => Err(cx.reject(format!(
                "Only unique values for domains are permitted. Duplicate entry of domain {lower} in route {}",
                self.table
            ))),
        }
    }

    /// The finished lookup.
    pub(super) fn build(self) -> Domains {
        Domains {
            exact: self.exact,
            suffixes: PrefixIndex::new(self.suffixes),
            prefixes: PrefixIndex::new(self.prefixes),
            default: self.default,
        }
    }
}

/// `host` without its port; the colons of a bare IPv6 address in brackets are not ports.
pub(super) fn without_port(host: &str) -> &str {
    let Some(colon) = host.rfind(':') else { return host };
    if host.rfind(']').is_some_and(|bracket| bracket > colon) {
        return host;
    }
    host.get(..colon).unwrap_or(host)
}
