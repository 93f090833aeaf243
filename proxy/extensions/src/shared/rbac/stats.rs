//! What is counted of decisions: all of them, and those of each policy where that is asked for.

use std::sync::Arc;

use proxy_core::stats::{Cells, Registry};

use super::{Mode, Outcome};
use crate::shared::by_name::ByName;

proxy_core::stats! {
    /// `<prefix>.rbac`.
    pub sharded struct EnforcedStats {
        /// Allowed.
        counter allowed,
        /// Refused.
        counter denied,
    }

    /// `<prefix>.rbac`, or what the prefix of the shadow rules makes of it.
    pub sharded struct ShadowStats {
        /// What the shadow rules would have allowed.
        counter shadow_allowed,
        /// What they would have refused.
        counter shadow_denied,
    }

    /// `<prefix>.rbac.policy.<name>`.
    pub sharded struct PolicyStats {
        /// Allowed by the policy.
        counter allowed [on_demand],
        /// Refused by it.
        counter denied [on_demand],
    }

    /// `<prefix>.rbac.policy.<name>`, for shadow rules.
    pub sharded struct ShadowPolicyStats {
        /// What the policy would have allowed.
        counter shadow_allowed [on_demand],
        /// What it would have refused.
        counter shadow_denied [on_demand],
    }
}

/// The counters of one filter.
pub struct Counters {
    enforced: Cells<EnforcedStats>,
    shadow: Cells<ShadowStats>,
    policies: ByName<PolicyStats>,
    shadow_policies: ByName<ShadowPolicyStats>,
}

impl Counters {
    /// Under `prefix`, with further prefixes for rules and for shadow rules.
    pub fn new(stats: &Arc<Registry>, prefix: &str, rules: &str, shadow_rules: &str) -> Self {
        let base = join(prefix, "rbac");
        let (rules, shadow_rules) =
            (stats.scope(&join(&base, rules)), stats.scope(&join(&base, shadow_rules)));
        Self {
            enforced: rules.cells(),
            shadow: shadow_rules.cells(),
            policies: ByName::new(rules.child("policy")),
            shadow_policies: ByName::new(shadow_rules.child("policy")),
        }
    }

    /// Counts what was decided, for its policy too if asked.
    pub fn count(&self, mode: Mode, outcome: &Outcome, by_policy: bool) {
        let policy = outcome.policy().filter(|_| by_policy);
        match (mode, outcome.is_allowed) {
            (Mode::Enforced, true) => self.enforced.here().allowed.inc(),
            (Mode::Enforced, false) => self.enforced.here().denied.inc(),
            (Mode::Shadow, true) => self.shadow.here().shadow_allowed.inc(),
            (Mode::Shadow, false) => self.shadow.here().shadow_denied.inc(),
        }
        let Some(policy) = policy else { return };
        match (mode, outcome.is_allowed) {
            (Mode::Enforced, true) => self.policies.with(policy, |stats| stats.allowed.inc()),
            (Mode::Enforced, false) => self.policies.with(policy, |stats| stats.denied.inc()),
            (Mode::Shadow, true) => self.shadow_policies.with(policy, |stats| stats.shadow_allowed.inc()),
            (Mode::Shadow, false) => self.shadow_policies.with(policy, |stats| stats.shadow_denied.inc()),
        }
    }
}

/// `prefix.name` where both are there; dots at the end are none.
fn join(prefix: &str, name: &str) -> String {
    let (prefix, name) = (prefix.trim_end_matches('.'), name.trim_end_matches('.'));
    match (prefix, name) {
        ("", one) | (one, "") => one.to_owned(),
        (prefix, name) => format!("{prefix}.{name}"),
    }
}
