//! Conditions in CEL, the Common Expression Language, over what is known of a request or a connection.
//!
//! A [`Program`] is built from the syntax tree that a control plane sends (`google.api.expr.v1alpha1`), or from text. As in Envoy, functions that do
//! not exist are refused with the configuration, and so are comprehensions (the macros over lists): an evaluation visits each
//! node of the tree once at most, and what it may build is bounded. An evaluation that fails (no such key, numbers that overflow,
//! operands of the wrong type) is no match.
//!
//! The crates that evaluate CEL parse its text; they take comprehensions, copy what they are asked about into values of their
//! own, and differ from Envoy's evaluator in what is equal and what is an error. The tree is small enough to walk it here.
//!
//! Source: Envoy `source/extensions/filters/common/expr`, `docs/root/intro/arch_overview/advanced/attributes.rst`;
//! <https://github.com/google/cel-spec/blob/master/doc/langdef.md>; answers observed on 1.40.

mod attributes;
mod compile;
mod evaluate;
mod function;
mod parse;
mod print;
#[cfg(test)]
mod tests;
mod time;
mod value;

use std::fmt;

use xds_api::envoy::config::core::v3::CelExpressionConfig;
use xds_api::google::api::expr::v1alpha1::Expr;

use crate::facts::Facts;
use compile::Node;
use value::Value;

/// Why there is no value. It is never told: who asks for a match has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Failed;

type Outcome<'a> = Result<Value<'a>, Failed>;

/// An expression, ready to be evaluated.
pub struct Program(Node);

impl fmt::Debug for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Program")
    }
}

impl Program {
    /// Builds from a tree, or says why that cannot be.
    pub fn build(expr: &Expr, config: Option<&CelExpressionConfig>) -> Result<Self, String> {
        compile::compile(expr, config.copied().unwrap_or_default(), false).map(Self)
    }

    /// Builds from text, or says why that cannot be.
    pub fn parse(text: &str, config: Option<&CelExpressionConfig>) -> Result<Self, String> {
        compile::compile(&parse::parse(text)?, config.copied().unwrap_or_default(), true).map(Self)
    }

    /// The value as text, if there is one; it may be no UTF-8.
    pub fn text(&self, facts: &Facts<'_>) -> Option<Vec<u8>> {
        Some(evaluate::evaluate(&self.0, facts).ok()?.print().into_owned())
    }

    /// The value as JSON, if there is one.
    pub fn json(&self, facts: &Facts<'_>) -> Option<prost_types::Value> {
        evaluate::evaluate(&self.0, facts).ok()?.to_json().ok()
    }

    /// Whether the expression is true.
    pub fn matches(&self, facts: &Facts<'_>) -> bool {
        matches!(evaluate::evaluate(&self.0, facts), Ok(Value::Bool(true)))
    }
}
