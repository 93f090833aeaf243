//! Secrets of the bootstrap that are made of a file that may change.

use std::collections::BTreeMap;
use std::sync::Arc;

use proxy_core::config::{BuildCx, Rejected};

use super::{SecretUse, Secrets};
use crate::tls::{Secret, SecretKind, Watched};

/// Those that were built anew, and are not in force yet.
pub(in super::super) struct RenewedFixed(BTreeMap<(SecretKind, String), Arc<Secret>>);

impl RenewedFixed {
    /// The one that a context refers to, if that was built anew.
    pub(in super::super) fn of(&self, used: &SecretUse) -> Option<Arc<Secret>> {
        match used.source {
            Some(_) => None,
            None => self.0.get(&(used.kind, used.name.to_string())).cloned(),
        }
    }
}

impl Secrets {
    /// Builds anew those that were made of a file when its hash was not this one.
    pub(in super::super) fn renewed_fixed(
        &self,
        watched: &Watched,
        hash: u64,
        cx: &mut BuildCx<'_>,
    ) -> Result<RenewedFixed, Rejected> {
        let mut renewed = BTreeMap::new();
        for (key, fixed) in &self.fixed {
            let made_of = fixed.secret.as_ref().and_then(|secret| secret.file());
            if made_of.is_some_and(|(file, before)| file == *watched && before != Some(hash)) {
                renewed.insert(key.clone(), Arc::new(Secret::build(&fixed.proto, cx)?));
            }
        }
        Ok(RenewedFixed(renewed))
    }

    /// Puts them in force.
    pub(in super::super) fn put_fixed(&mut self, renewed: RenewedFixed) {
        for (key, secret) in renewed.0 {
            self.fixed.entry(key).and_modify(|fixed| fixed.secret = Some(secret));
        }
    }
}
