//! Mechanisms of the data plane: accept, codecs, streams, router, pools, snapshots.
