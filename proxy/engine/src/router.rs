//! Routing: which virtual host and route a request takes, and what the route does to it.
//!
//! A [`RouteTable`] is built once from `envoy.config.route.v3.RouteConfiguration` and never changes; a stream pins the
//! `Arc<RouteTable>` it was matched in and keeps a [`RouteMatch`], which is a few numbers. Matching allocates only for
//! host names with capital letters over 128 bytes, or to join repeated headers.
//! Source: Envoy `docs/root/intro/arch_overview/http/http_routing.rst`, `docs/root/configuration/http/http_conn_man`.

pub mod cluster;
pub mod cluster_plugin;
pub mod decoration;
pub mod direct_response;
mod domains;
pub mod fields;
pub mod filter_config;
pub mod forward;
pub mod internal_redirect;
mod matched_routes;
pub mod path;
mod priority_groups;
pub mod redirect;
mod retries;
pub mod rewrite;
pub mod route;
pub mod route_table;
pub mod strict_headers;
pub mod tables;
pub mod timeouts;
pub mod virtual_host;

pub use crate::upstream::header_mutation;
pub use route_table::{RouteMatch, RouteTable, SelectedRoute};
pub use tables::Routes;

#[cfg(test)]
mod tests;
