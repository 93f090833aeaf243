//! Proof over real sockets: the proxy between real clients, servers and control planes.
