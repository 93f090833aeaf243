//! Measures of cost: micro benches and the load bench against the peers.
