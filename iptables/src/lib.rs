//! Redirection: how the kernel hands a workload's traffic to its sidecar.
//!
//! [`options::Options`] say what is wanted, [`plan::plan`] turns them into a [`rule::Plan`] (pure data: tables, chains, rules),
//! [`restore`] and [`nft`] write a plan as text, [`apply`] puts it into the kernel and [`explain`] says what it does to a
//! packet. Everything but [`apply`], [`backend`], [`routes`] and [`validate`] is without effects.
//!
//! The flags, the environment variables and the rules are those of `istio-iptables`, so that this program can stand in its
//! place; [`preset`] knows the ports, users and exclusions of other meshes. Nothing here knows the proxy.

pub mod address;
pub mod apply;
pub mod backend;
pub mod cli;
pub mod explain;
pub mod nft;
pub mod options;
pub mod plan;
pub mod preset;
pub mod restore;
pub mod routes;
pub mod rule;
pub mod state;
pub mod validate;

#[cfg(test)]
mod testing;
