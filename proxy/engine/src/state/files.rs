//! Files that TLS contexts are made of and that may change: `trust_bundles` of the SPIFFE validator, and those of which a
//! `watched_directory` tells.
//!
//! When one changes, the contexts that are made of it are built anew on the main thread, and swapped if all of them could be:
//! what does not do is told to the log, and the last good one stays. A directory is watched once, however many files are in it, and a
//! context is built anew only if one of them differs from what it has: of what is there now, and of what it has from elsewhere.
//!
//! Source: Envoy `envoy/extensions/transport_sockets/tls/v3/tls_spiffe_validator_config.proto`.

use std::collections::{BTreeMap, BTreeSet};

use proxy_core::config::BuildCx;

use super::Effect;
use super::decode::join;
use super::secrets::SecretUse;
use super::store::Store;
use crate::tls::{Files as Of, Place, Supplied, Watched};

/// The places that are watched because some context is made of files in them, each under a number.
#[derive(Default)]
pub(super) struct Files(BTreeMap<Place, u64>);

fn watch(place: Place, id: u64) -> Effect {
    match place {
        Place::Directory(directory) => Effect::WatchFiles { id, directories: vec![directory] },
        Place::File(path) => Effect::WatchFile { id, path },
    }
}

/// The files of a context itself, with the hashes of what is in force of them.
fn own_files(tls: &dyn Supplied) -> impl Iterator<Item = (Watched, Option<u64>)> {
    let hashes = tls.hashes();
    let hashes = (0..hashes.len()).map(move |index| hashes.get(index).copied().flatten());
    tls.files().iter().cloned().zip(hashes)
}

impl Store {
    fn all_contexts(&self) -> impl Iterator<Item = (&dyn Supplied, &[SecretUse])> {
        self.clusters.contexts().chain(self.listeners.contexts())
    }

    /// All files that may change, with the hashes of what is in force of them: those of contexts, and of secrets of the bootstrap that
    /// contexts refer to.
    fn files_in_force(&self) -> impl Iterator<Item = (Watched, Option<u64>)> {
        self.all_contexts().flat_map(|(tls, uses)| {
            let of_secrets = uses.iter().filter_map(|used| self.secrets.find(used)?.file());
            own_files(tls).chain(of_secrets)
        })
    }

    /// Works out anew where files are to be watched.
    pub(super) fn refresh_files(&mut self) {
        let wanted: BTreeSet<Place> = self.files_in_force().map(|(watched, _)| watched.place()).collect();
        let gone = self.files.0.extract_if(.., |place, _| !wanted.contains(place));
        let gone: Vec<Effect> = gone.map(|(_, id)| Effect::StopWatching(id)).collect();
        self.effects.plane.extend(gone);
        for place in wanted {
            if !self.files.0.contains_key(&place) {
                let id = self.next_id();
                self.files.0.insert(place.clone(), id);
                self.effects.plane.push(watch(place, id));
            }
        }
    }

    /// Files in a place where there are some that contexts are made of may have changed.
    pub(super) fn context_file_changed(&mut self, id: u64) {
        let Some((place, _)) = self.files.0.iter().find(|(_, watch)| **watch == id) else { return };
        let here: BTreeSet<Watched> = self
            .files_in_force()
            .filter_map(|(watched, _)| (watched.place() == *place).then_some(watched))
            .collect();
        for watched in here {
            let file = watched.file.display();
            let now = match watched.hash() {
                Ok(now) => now,
                Err(error) => {
                    tracing::warn!(%file, %error, "a file of TLS cannot be read");
                    continue;
                }
            };
            // (What was built anew of a file before this one, was of this one, too.)
            let is_new = |(one, before): (Watched, Option<u64>)| one == watched && before != Some(now);
            if !self.files_in_force().any(is_new) {
                continue;
            }
            match self.build_anew(&watched, now) {
                Ok(()) => tracing::info!(%file, "a file of TLS was taken"),
                Err(reason) => tracing::warn!(%file, reason, "a file of TLS was not taken"),
            }
        }
    }

    /// Builds all that was made of a file when that was another: all are put in force, or none.
    fn build_anew(&mut self, watched: &Watched, now: u64) -> Result<(), String> {
        let env = self.env.clone();
        let mut cx = BuildCx::new(&env);
        let Ok(secrets) = self.secrets.renewed_fixed(watched, now, &mut cx) else {
            return Err(join(&cx.into_errors()));
        };
        let place = watched.place();
        let mut prepared = Vec::new();
        for (tls, uses) in self.all_contexts() {
            let is_new = own_files(tls).any(|(one, before)| one == *watched && before != Some(now));
            if !is_new && !uses.iter().any(|used| secrets.of(used).is_some()) {
                continue;
            }
            let found: Vec<_> =
                uses.iter().map(|used| secrets.of(used).or_else(|| self.secrets.find(used))).collect();
            match tls.prepare(&found, if is_new { Of::Now(&place) } else { Of::Kept }, &mut cx) {
                Ok(context) => prepared.push(context),
                Err(_) => return Err(join(&cx.into_errors())),
            }
        }
        prepared.into_iter().for_each(|context| context.install());
        self.secrets.put_fixed(secrets);
        Ok(())
    }
}
