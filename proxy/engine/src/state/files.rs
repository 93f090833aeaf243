//! Files that TLS contexts are made of and that may change: `trust_bundles` of the SPIFFE validator, and those of which a
//! `watched_directory` tells.
//!
//! When one changes, the contexts that are made of it are built anew on the main thread, and swapped if all of them could be:
//! what does not do is told to the log, and the last good one stays.
//!
//! Source: Envoy `envoy/extensions/transport_sockets/tls/v3/tls_spiffe_validator_config.proto`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proxy_core::config::BuildCx;
use proxy_core::hash::xxhash64;

use super::Effect;
use super::decode::join;
use super::secrets::{SecretUse, Secrets};
use super::store::Store;
use crate::tls::{Secret, Supplied, Watched};

/// Those that some context is made of.
#[derive(Default)]
pub(super) struct Files(BTreeMap<Watched, Watch>);

struct Watch {
    /// Under which number it is watched.
    id: u64,
    /// Of what contexts were last built of when it was found to have changed. (Those that began earlier read it themselves.)
    taken: Option<u64>,
}

/// The files of a context: its own, and those of secrets of the bootstrap.
fn files_of<'c>(
    secrets: &'c Secrets,
    tls: &'c dyn Supplied,
    uses: &'c [SecretUse],
) -> impl Iterator<Item = Watched> + 'c {
    let of_secrets = uses.iter().filter_map(|used| secrets.find(used)?.files());
    tls.files().iter().cloned().chain(of_secrets)
}

impl Store {
    fn all_contexts(&self) -> impl Iterator<Item = (&dyn Supplied, &[SecretUse])> {
        self.clusters.contexts().chain(self.listeners.contexts())
    }

    /// Works out anew which files are to be watched.
    pub(super) fn refresh_files(&mut self) {
        let contexts = self.all_contexts();
        let wanted: BTreeSet<Watched> =
            contexts.flat_map(|(tls, uses)| files_of(&self.secrets, tls, uses)).collect();
        let gone = self.files.0.extract_if(.., |watched, _| !wanted.contains(watched));
        let gone: Vec<Effect> = gone.map(|(_, watch)| Effect::StopWatching(watch.id)).collect();
        self.effects.plane.extend(gone);
        for watched in wanted {
            if self.files.0.contains_key(&watched) {
                continue;
            }
            let id = self.next_id();
            self.effects.plane.push(match &watched.directory {
                Some(directory) => Effect::WatchFiles { id, directories: vec![directory.clone()] },
                None => Effect::WatchFile { id, path: watched.file.clone() },
            });
            self.files.0.insert(watched, Watch { id, taken: None });
        }
    }

    /// A file that contexts are made of may have changed.
    pub(super) fn context_file_changed(&mut self, id: u64) {
        let Some((watched, watch)) = self.files.0.iter().find(|(_, watch)| watch.id == id) else { return };
        let file = watched.file.display();
        let now = match watched.read() {
            Ok(content) => xxhash64(&content),
            Err(error) => {
                tracing::warn!(%file, %error, "a file of TLS cannot be read");
                return;
            }
        };
        if watch.taken == Some(now) {
            return;
        }
        match self.build_anew(watched) {
            Ok(()) => {
                tracing::info!(%file, "a file of TLS was taken");
                let watched = watched.clone();
                self.files.0.insert(watched, Watch { id, taken: Some(now) });
            }
            Err(reason) => tracing::warn!(%file, reason, "a file of TLS was not taken"),
        }
    }

    /// Builds all contexts that are made of a file: all are put in force, or none.
    fn build_anew(&self, watched: &Watched) -> Result<(), String> {
        let mut cx = BuildCx::new(&self.env);
        let mut prepared = Vec::new();
        let concerned = |(tls, uses): &(&dyn Supplied, &[SecretUse])| {
            files_of(&self.secrets, *tls, uses).any(|one| one == *watched)
        };
        for (tls, uses) in self.all_contexts().filter(concerned) {
            let found: Vec<Option<Arc<Secret>>> = uses.iter().map(|used| self.secrets.find(used)).collect();
            match tls.prepare(&found, &mut cx) {
                Ok(context) => prepared.push(context),
                Err(_) => return Err(join(&cx.into_errors())),
            }
        }
        prepared.into_iter().for_each(|context| context.install());
        Ok(())
    }
}
