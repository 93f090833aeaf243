//! Policies of the data plane, one extension a file.
