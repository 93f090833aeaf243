//! Listeners: what is bound, which filter chain serves a connection, and how connections are accepted.

pub mod accept;
mod admission;
mod ahead;
pub mod chain_match;
mod chain_tree;
pub mod config;
mod connection;
pub mod fields;
mod inspect;
