//! The process: command line, bootstrap, wiring, admin.
