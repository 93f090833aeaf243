//! The xDS transport protocol: state-of-the-world and delta, ADS and single streams.
