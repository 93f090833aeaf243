//! The process: command line, bootstrap, wiring, admin.

pub mod admin;
