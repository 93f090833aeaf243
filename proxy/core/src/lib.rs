//! Vocabulary and contracts of the proxy: no sockets, no runtime, no codecs.
