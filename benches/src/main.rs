//! The load bench against the peers.

fn main() {}
