//! What the filters of an Istio mesh share: who takes part, and what is counted of it.

pub mod peer;
pub mod stats;
