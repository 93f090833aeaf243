//! `listener.<address>.ssl` and `cluster.<name>.ssl`.

crate::stats! {
    /// `listener.<address>.ssl`, `cluster.<name>.ssl`.
    pub sharded struct SslStats {
        /// Handshakes and sessions that failed, but for those counted below.
        counter connection_error,
        /// Certificates whose digest, or whose key's digest, is not listed.
        counter fail_verify_cert_hash,
        /// Certificates without a chain to a trusted authority.
        counter fail_verify_error,
        /// Peers that did not show the certificate that was required.
        counter fail_verify_no_cert,
        /// Certificates without a name that matches.
        counter fail_verify_san,
        /// Handshakes that succeeded.
        counter handshake,
        /// Of them, those in which the peer showed no certificate.
        counter no_certificate,
        /// Handshakes that failed for want of a valid stapled response.
        counter ocsp_staple_failed,
        /// Handshakes without a stapled response though the client asked for one.
        counter ocsp_staple_omitted,
        /// Handshakes whose client asked for a stapled response.
        counter ocsp_staple_requests,
        /// Handshakes with a stapled response.
        counter ocsp_staple_responses,
        /// Handshakes that resumed a session.
        counter session_reused,
        /// Sessions of TLS 1.2.
        counter tls12 = "versions.TLSv1.2" [on_demand],
        /// Sessions of TLS 1.3.
        counter tls13 = "versions.TLSv1.3" [on_demand],
        /// By cipher suite.
        counter aes_256_gcm = "ciphers.TLS_AES_256_GCM_SHA384" [on_demand],
        /// By cipher suite.
        counter aes_128_gcm = "ciphers.TLS_AES_128_GCM_SHA256" [on_demand],
        /// By cipher suite.
        counter chacha20_poly1305 = "ciphers.TLS_CHACHA20_POLY1305_SHA256" [on_demand],
        /// By cipher suite.
        counter ecdsa_aes_256_gcm = "ciphers.ECDHE-ECDSA-AES256-GCM-SHA384" [on_demand],
        /// By cipher suite.
        counter ecdsa_aes_128_gcm = "ciphers.ECDHE-ECDSA-AES128-GCM-SHA256" [on_demand],
        /// By cipher suite.
        counter ecdsa_chacha20_poly1305 = "ciphers.ECDHE-ECDSA-CHACHA20-POLY1305" [on_demand],
        /// By cipher suite.
        counter rsa_aes_256_gcm = "ciphers.ECDHE-RSA-AES256-GCM-SHA384" [on_demand],
        /// By cipher suite.
        counter rsa_aes_128_gcm = "ciphers.ECDHE-RSA-AES128-GCM-SHA256" [on_demand],
        /// By cipher suite.
        counter rsa_chacha20_poly1305 = "ciphers.ECDHE-RSA-CHACHA20-POLY1305" [on_demand],
        /// By group of the key exchange.
        counter x25519 = "curves.X25519" [on_demand],
        /// By group of the key exchange.
        counter p256 = "curves.P-256" [on_demand],
        /// By group of the key exchange.
        counter p384 = "curves.P-384" [on_demand],
        /// By group of the key exchange.
        counter x25519_mlkem768 = "curves.X25519MLKEM768" [on_demand],
        /// By the peer's signature.
        counter ecdsa_p256_sha256 = "sigalgs.ecdsa_secp256r1_sha256" [on_demand],
        /// By the peer's signature.
        counter ecdsa_p384_sha384 = "sigalgs.ecdsa_secp384r1_sha384" [on_demand],
        /// By the peer's signature.
        counter ecdsa_p521_sha512 = "sigalgs.ecdsa_secp521r1_sha512" [on_demand],
        /// By the peer's signature.
        counter rsa_pss_sha256 = "sigalgs.rsa_pss_rsae_sha256" [on_demand],
        /// By the peer's signature.
        counter rsa_pss_sha384 = "sigalgs.rsa_pss_rsae_sha384" [on_demand],
        /// By the peer's signature.
        counter rsa_pss_sha512 = "sigalgs.rsa_pss_rsae_sha512" [on_demand],
        /// By the peer's signature.
        counter rsa_pkcs1_sha256 = "sigalgs.rsa_pkcs1_sha256" [on_demand],
        /// By the peer's signature.
        counter rsa_pkcs1_sha384 = "sigalgs.rsa_pkcs1_sha384" [on_demand],
        /// By the peer's signature.
        counter rsa_pkcs1_sha512 = "sigalgs.rsa_pkcs1_sha512" [on_demand],
        /// By the peer's signature.
        counter ed25519 = "sigalgs.ed25519" [on_demand],
    }

    /// `listener.<address>.server_ssl_socket_factory`, `cluster.<name>.client_ssl_socket_factory`.
    pub sharded struct SslFactoryStats {
        /// Connections that came before the secrets.
        counter downstream_context_secrets_not_ready,
        /// Updates of secrets.
        counter ssl_context_update_by_sds,
        /// Connections that were wanted before the secrets came.
        counter upstream_context_secrets_not_ready,
    }

    /// What `sds.<name>` counts besides [`super::XdsStats`].
    pub shared struct SdsStats {
        /// Files of a secret that changed, and could not be taken.
        counter key_rotation_failed,
    }
}
