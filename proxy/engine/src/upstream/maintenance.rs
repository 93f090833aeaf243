//! Maintenance of a cluster: the share of its requests that the runtime wants refused (`upstream.maintenance_mode.<cluster>`).
//!
//! Source: Envoy `docs/root/configuration/upstream/cluster_manager/cluster_runtime.rst`.

use std::sync::atomic::{AtomicU32, Ordering};

use proxy_core::runtime::Runtime;

/// The share, in percent.
#[derive(Debug, Default)]
pub(super) struct Maintenance(AtomicU32);

impl Maintenance {
    /// Whether the request is refused whose random number this is.
    pub(super) fn refuses(&self, random: impl FnOnce() -> u64) -> bool {
        match self.0.load(Ordering::Relaxed) {
            0 => false,
            percent => random() % 100 < u64::from(percent),
        }
    }

    /// Takes over what the runtime says of the cluster that is called `name`.
    pub(super) fn follow(&self, runtime: &Runtime, name: &str) {
        let percent = runtime.number(&format!("upstream.maintenance_mode.{name}"));
        self.0.store(u32::try_from(percent.unwrap_or(0)).unwrap_or(u32::MAX), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use proxy_core::runtime::RuntimeLayer;

    use super::*;

    #[test]
    fn a_share_of_the_requests_is_refused() {
        let maintenance = Maintenance::default();
        assert!(!maintenance.refuses(|| unreachable!("nothing is drawn where nothing is refused")));
        let of = |text: &str| {
            let values = [("upstream.maintenance_mode.a.b".to_owned(), text.to_owned())].into();
            maintenance
                .follow(&Runtime::new(vec![RuntimeLayer { values, ..RuntimeLayer::default() }]), "a.b");
            maintenance.0.load(Ordering::Relaxed)
        };
        assert_eq!(of("25"), 25);
        assert!(maintenance.refuses(|| 24) && !maintenance.refuses(|| 25) && maintenance.refuses(|| 124));
        assert_eq!((of("often"), of("1.5"), of("1000")), (0, 0, 1000));
        maintenance.follow(&Runtime::default(), "a.b");
        assert!(!maintenance.refuses(|| 0));
    }
}
