//! Role based access control: what may be done (permissions), by whom (principals), and what follows from it.
//!
//! An [`Engine`] is built from `rules` (policies, evaluated in the order of their names; the first that holds decides) or from
//! a `matcher`. It decides over [`Facts`] of a request or a connection and says so as an [`Outcome`]; the filters count that, leave it as
//! metadata and act upon it. Deciding allocates nothing.
//! Source: Envoy `api/envoy/config/rbac/v3/rbac.proto`, `docs/root/configuration/http/http_filters/rbac_filter.rst`;
//! observed on 1.40.

pub mod fields;
mod index;
mod rule;
mod stats;
#[cfg(test)]
mod tests;

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::Arc;

use prost_types::value::Kind;
use prost_types::{Struct, Value};
use proxy_core::cel::Program;
use proxy_core::config::{BuildCx, Rejected};
use proxy_core::extension::decode;
use proxy_core::matching::{Inputs, MatchTree, Purpose};
use proxy_core::metadata::DynamicMetadata;
use proxy_core::stream_error::Details;
use xds_api::envoy::config::rbac::v3 as proto;
use xds_api::envoy::config::rbac::v3::rbac::Action;
use xds_api::xds::r#type::matcher::v3::Matcher;

pub use proxy_core::facts::{Facts, Layer};

use index::PathIndex;
use rule::Rule;
pub use stats::Counters;

/// What the actions of a matcher are.
const ACTION: &str = "envoy.config.rbac.v3.Action";

/// Whether what an engine says is acted upon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// It is.
    Enforced,
    /// It is only counted and told.
    Shadow,
}

impl Mode {
    /// What the keys of its metadata begin with.
    fn word(self) -> &'static str {
        match self {
            Self::Enforced => "enforced",
            Self::Shadow => "shadow",
        }
    }
}

/// What a configuration says: rules, and rules in the shadow.
pub struct Rules {
    /// What is acted upon.
    pub enforced: Option<Engine>,
    /// What is only told.
    pub shadow: Option<Engine>,
}

/// The fields of a filter's message that [`Rules`] are built from.
pub struct RulesProto<'p> {
    /// `rules`
    pub rules: Option<&'p proto::Rbac>,
    /// `rules_stat_prefix`
    pub prefix: &'p str,
    /// `matcher`
    pub matcher: Option<&'p Matcher>,
    /// `shadow_rules`
    pub shadow_rules: Option<&'p proto::Rbac>,
    /// `shadow_rules_stat_prefix`
    pub shadow_prefix: &'p str,
    /// `shadow_matcher`
    pub shadow_matcher: Option<&'p Matcher>,
}

impl Rules {
    /// Builds both.
    /// A matcher takes the place of rules.
    pub fn build(protos: &RulesProto<'_>, layer: Layer, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let mut one = |(rules_field, rules), (matcher_field, matcher), mode| {
            let of_rules =
                |rules: &proto::Rbac| cx.at(rules_field, |cx| Engine::build(rules, mode, layer, cx));
            let rules = Option::<&proto::Rbac>::map(rules, of_rules).transpose()?;
            let of_matcher = |matcher: &Matcher| {
                cx.at(matcher_field, |cx| Engine::build_matcher(matcher, mode, layer, cx))
            };
            Ok(Option::<&Matcher>::map(matcher, of_matcher).transpose()?.or(rules))
        };
        let enforced = (Mode::Enforced, protos.prefix);
        let enforced = one(("rules", protos.rules), ("matcher", protos.matcher), enforced);
        let shadow = (Mode::Shadow, protos.shadow_prefix);
        let shadow =
            one(("shadow_rules", protos.shadow_rules), ("shadow_matcher", protos.shadow_matcher), shadow);
        Ok(Self { enforced: enforced?, shadow: shadow? })
    }

    /// Whether nothing is decided at all.
    pub fn is_empty(&self) -> bool {
        self.enforced.is_none() && self.shadow.is_none()
    }

    /// What both say, the shadow first.
    #[inline]
    pub fn decide(&self, facts: &Facts<'_>) -> [Option<(&Engine, &Outcome)>; 2] {
        [&self.shadow, &self.enforced]
            .map(|engine| engine.as_ref().map(|engine| (engine, engine.decide(facts))))
    }
}

/// Rules, ready to decide.
pub struct Engine {
    decider: Decider,
    /// Where no policy holds.
    otherwise: Outcome,
    /// What the keys of its metadata begin with, as configured.
    prefix: Box<str>,
    mode: Mode,
    logging: Option<Logging>,
}

enum Decider {
    Policies(Box<[Policy]>, PathIndex),
    Matcher(MatchTree<Outcome>),
}

struct Policy {
    /// Permissions and principals, what is asked first before the other.
    rules: [Rule; 2],
    condition: Option<Program>,
    outcome: Outcome,
}

impl Policy {
    fn holds(&self, facts: &Facts<'_>) -> bool {
        self.rules.iter().all(|rule| rule.holds(facts))
            && self.condition.as_ref().is_none_or(|condition| condition.matches(facts))
    }
}

/// What an engine decided.
pub struct Outcome {
    /// Name of the policy that decided; empty if none did.
    policy: Box<str>,
    /// Whether the request or the connection may go on.
    pub is_allowed: bool,
    is_logged: Option<bool>,
    metadata: Arc<Struct>,
}

/// Metadata of the action LOG, which access logs may look for.
struct Logging {
    namespace: Arc<str>,
    yes: Arc<Struct>,
    no: Arc<Struct>,
}

impl Engine {
    /// Builds the policies of `rules`. `prefix` is what the keys of the metadata that they leave begin with.
    pub fn build(
        rules: &proto::Rbac,
        (mode, prefix): (Mode, &str),
        layer: Layer,
        cx: &mut BuildCx<'_>,
    ) -> Result<Self, Rejected> {
        let proto::Rbac { action, policies, audit_logging_options } = rules;
        // Loggers that may be missing are: Envoy has none either, and says nothing of those that are demanded.
        cx.at("audit_logging_options", |cx| {
            let loggers = audit_logging_options.iter().flat_map(|options| &options.logger_configs);
            cx.reject_if(
                loggers.into_iter().any(|logger| !logger.is_optional),
                "logger_configs",
                fields::AUDIT,
            )
        })?;
        let Ok(action) = Action::try_from(*action) else {
            return Err(cx.at("action", |cx| cx.reject("value must be one of the defined enum values")));
        };
        let outcome = |policy: &str, holds: bool| {
            let (is_allowed, is_logged) = match action {
                Action::Allow => (holds, None),
                Action::Deny => (!holds, None),
                Action::Log => (true, (mode == Mode::Enforced).then_some(holds)),
            };
            let metadata = Arc::new(metadata_of(policy, is_allowed, mode, prefix));
            Outcome { policy: policy.into(), is_allowed, is_logged, metadata }
        };
        let policies = build_policies(policies, layer, |policy| outcome(policy, true), cx)?;
        let index = PathIndex::new(policies.iter().map(|policy| &policy.rules));
        Ok(Self {
            decider: Decider::Policies(policies, index),
            otherwise: outcome("", false),
            prefix: prefix.into(),
            mode,
            logging: (action == Action::Log).then(Logging::new),
        })
    }

    /// Builds a tree whose actions say what follows. Where it leads to none, nothing is allowed.
    pub fn build_matcher(
        matcher: &Matcher,
        (mode, prefix): (Mode, &str),
        layer: Layer,
        cx: &mut BuildCx<'_>,
    ) -> Result<Self, Rejected> {
        let is_logging = Cell::new(false);
        let outcome = |policy: &str, is_allowed, is_logged| {
            let metadata = Arc::new(metadata_of(policy, is_allowed, mode, prefix));
            Outcome { policy: policy.into(), is_allowed, is_logged, metadata }
        };
        let action = |message: &str, payload: &[u8], cx: &mut BuildCx<'_>| {
            if message != ACTION {
                return Err(cx.reject(format!("{message} is no action that is available here")));
            }
            let proto::Action { name, action } = decode(payload, cx)?;
            if name.is_empty() {
                return Err(cx.at("name", |cx| cx.reject("value length must be at least 1 characters")));
            }
            let Ok(action) = Action::try_from(action) else {
                return Err(cx.at("action", |cx| cx.reject("value must be one of the defined enum values")));
            };
            is_logging.set(is_logging.get() || action == Action::Log);
            Ok(outcome(&name, action != Action::Deny, Some(action == Action::Log)))
        };
        let refuse_input = |input: &str| match layer {
            Layer::Http => format!("RBAC HTTP filter cannot match on '{input}'"),
            Layer::Network => format!("RBAC network filter cannot match '{input}'"),
        };
        let inputs = Inputs { layer, admits: &is_not_of_listeners, refuse: &refuse_input };
        let purpose = Purpose { inputs, action: &action };
        let tree = MatchTree::build(matcher, &purpose, cx)?;
        Ok(Self {
            decider: Decider::Matcher(tree),
            otherwise: outcome("", false, None),
            prefix: prefix.into(),
            mode,
            logging: (is_logging.get() && mode == Mode::Enforced).then(Logging::new),
        })
    }

    /// What the rules say.
    #[inline]
    pub fn decide(&self, facts: &Facts<'_>) -> &Outcome {
        match &self.decider {
            Decider::Policies(policies, index) => {
                let candidates = index.candidates(facts.path).filter_map(|number| policies.get(number));
                let mut holding = candidates.filter(|policy| policy.holds(facts));
                holding.next().map_or(&self.otherwise, |policy| &policy.outcome)
            }
            Decider::Matcher(tree) => tree.find(facts).unwrap_or(&self.otherwise),
        }
    }

    /// Tells access logs whether this is to be logged, if the action is about that.
    pub fn tell_logs(&self, outcome: &Outcome, metadata: &mut DynamicMetadata) {
        if let (Some(is_logged), Some(logging)) = (outcome.is_logged, &self.logging) {
            metadata.share(&logging.namespace, if is_logged { &logging.yes } else { &logging.no });
        }
    }

    /// Leaves what was decided in `namespace`. An engine that is configured without a prefix uses `default_prefix`.
    pub fn tell(
        &self,
        outcome: &Outcome,
        default_prefix: &str,
        namespace: &Arc<str>,
        metadata: &mut DynamicMetadata,
    ) {
        if default_prefix.is_empty() || !self.prefix.is_empty() {
            return metadata.share(namespace, &outcome.metadata);
        }
        metadata
            .merge(namespace, metadata_of(&outcome.policy, outcome.is_allowed, self.mode, default_prefix));
    }
}

/// Some inputs are for listeners alone.
fn is_not_of_listeners(input: &str) -> bool {
    let name = input.strip_prefix("envoy.extensions.matching.common_inputs.network.v3.");
    !matches!(name, Some("SourceTypeInput" | "TransportProtocolInput" | "ApplicationProtocolInput"))
}

fn build_policies(
    protos: &HashMap<String, proto::Policy>,
    layer: Layer,
    outcome: impl Fn(&str) -> Outcome,
    cx: &mut BuildCx<'_>,
) -> Result<Box<[Policy]>, Rejected> {
    let mut sorted: Vec<(&String, &proto::Policy)> = protos.iter().collect();
    sorted.sort_unstable_by_key(|(name, _)| *name);
    let mut built = Vec::with_capacity(sorted.len());
    let mut rejected = false;
    for (name, policy) in sorted {
        match cx.at_key("policies", name, |cx| build_policy(policy, layer, cx)) {
            Ok((rules, condition)) => built.push(Policy { rules, condition, outcome: outcome(name) }),
            Err(Rejected) => rejected = true,
        }
    }
    if rejected { Err(Rejected) } else { Ok(built.into()) }
}

fn build_policy(
    policy: &proto::Policy,
    layer: Layer,
    cx: &mut BuildCx<'_>,
) -> Result<([Rule; 2], Option<Program>), Rejected> {
    let proto::Policy { permissions, principals, condition, checked_condition, cel_config } = policy;
    let checked = checked_condition.as_ref().map(|checked| checked.expr.clone().unwrap_or_default());
    let condition = condition.as_ref().map(|expr| ("condition", expr));
    let condition = condition.or(checked.as_ref().map(|expr| ("checked_condition", expr)));
    let condition = condition.map(|(field, expr)| {
        let built = Program::build(expr, cel_config.as_ref());
        built.map_err(|reason| {
            cx.at(field, |cx| cx.reject(format!("failed to create an expression: {reason}")))
        })
    });
    let some = |is_empty, field, cx: &mut BuildCx<'_>| {
        cx.reject_if(is_empty, field, "value must contain at least 1 item(s)")
    };
    some(permissions.is_empty(), "permissions", cx)?;
    some(principals.is_empty(), "principals", cx)?;
    let permissions = cx.each("permissions", permissions, |one, cx| Rule::permission(one, layer, cx));
    let principals = cx.each("principals", principals, |one, cx| Rule::principal(one, layer, cx));
    let mut rules = [Rule::any_of(permissions?), Rule::any_of(principals?)];
    rules.sort_by_key(Rule::rank);
    Ok((rules, condition.transpose()?))
}

impl Outcome {
    /// The policy that decided, if one did.
    pub fn policy(&self) -> Option<&str> {
        (!self.policy.is_empty()).then_some(&self.policy)
    }

    /// What access logs are told of a refusal.
    pub fn details(&self) -> Details {
        let name = self.policy().unwrap_or("none");
        format!("rbac_access_denied_matched_policy[{}]", name.replace(is_space, "_")).into()
    }
}

/// Spaces of C's `isspace`.
fn is_space(letter: char) -> bool {
    matches!(letter, ' ' | '\t' | '\n' | '\r' | '\x0b' | '\x0c')
}

fn metadata_of(policy: &str, is_allowed: bool, mode: Mode, prefix: &str) -> Struct {
    let text = |text: &str| Value { kind: Some(Kind::StringValue(text.to_owned())) };
    let key = |what: &str| format!("{prefix}{}_{what}", mode.word());
    let result = (key("engine_result"), text(if is_allowed { "allowed" } else { "denied" }));
    let policy = (!policy.is_empty()).then(|| (key("effective_policy_id"), text(policy)));
    Struct { fields: policy.into_iter().chain([result]).collect() }
}

impl Logging {
    fn new() -> Self {
        let hint = |is_logged| {
            let value = Value { kind: Some(Kind::BoolValue(is_logged)) };
            Arc::new(Struct { fields: [("access_log_hint".to_owned(), value)].into() })
        };
        Self { namespace: "envoy.common".into(), yes: hint(true), no: hint(false) }
    }
}
