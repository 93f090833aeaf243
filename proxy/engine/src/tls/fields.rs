//! What becomes of every field of the messages of TLS.

use proxy_core::config::FieldUse::{Ignored, Rejected, Used};
use proxy_core::config::{FieldUse, MessageFields};

const NO_PROVIDERS: FieldUse = Rejected("certificate providers are not available");

/// Sources whose files are watched.
pub const WATCHED: &[(&str, &str)] =
    &[("envoy.extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig", "trust_bundles")];

/// Fields by message.
pub const FIELDS: &[MessageFields] = &[
    (
        "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        &[
            ("common_tls_context", Used),
            ("require_client_certificate", Used),
            ("require_sni", Used),
            ("session_ticket_keys", Used),
            ("session_ticket_keys_sds_secret_config", Used),
            ("disable_stateless_session_resumption", Used),
            ("disable_stateful_session_resumption", Used),
            ("session_timeout", Used),
            ("ocsp_staple_policy", Used),
            ("full_scan_certs_on_sni_mismatch", Used),
            ("prefer_client_ciphers", Used),
        ],
    ),
    (
        "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        &[
            ("common_tls_context", Used),
            ("sni", Used),
            ("auto_host_sni", Used),
            ("auto_sni_san_validation", Used),
            ("allow_renegotiation", Rejected("renegotiation is not available")),
            ("max_session_keys", Used),
            ("enforce_rsa_key_usage", Ignored("concerns a key exchange by static RSA, which is not spoken")),
        ],
    ),
    (
        "envoy.extensions.transport_sockets.tls.v3.CommonTlsContext",
        &[
            ("tls_params", Used),
            ("tls_certificates", Used),
            ("tls_certificate_sds_secret_configs", Used),
            ("tls_certificate_provider_instance", NO_PROVIDERS),
            ("custom_tls_certificate_selector", Rejected("only the default selector is available")),
            ("tls_certificate_certificate_provider", NO_PROVIDERS),
            ("tls_certificate_certificate_provider_instance", NO_PROVIDERS),
            ("validation_context", Used),
            ("validation_context_sds_secret_config", Used),
            ("combined_validation_context", Used),
            ("validation_context_certificate_provider", NO_PROVIDERS),
            ("validation_context_certificate_provider_instance", NO_PROVIDERS),
            ("alpn_protocols", Used),
            ("custom_handshaker", Rejected("only the default handshake is available")),
            ("key_log", Used),
        ],
    ),
    (
        "envoy.extensions.transport_sockets.tls.v3.TlsKeyLog",
        &[("path", Used), ("local_address_range", Used), ("remote_address_range", Used)],
    ),
    (
        "envoy.extensions.transport_sockets.tls.v3.CommonTlsContext.CombinedCertificateValidationContext",
        &[
            ("default_validation_context", Used),
            ("validation_context_sds_secret_config", Used),
            ("validation_context_certificate_provider", NO_PROVIDERS),
            ("validation_context_certificate_provider_instance", NO_PROVIDERS),
        ],
    ),
    ("envoy.extensions.transport_sockets.tls.v3.SdsSecretConfig", &[("name", Used), ("sds_config", Used)]),
    (
        "envoy.extensions.transport_sockets.tls.v3.Secret",
        &[
            ("name", Used),
            ("tls_certificate", Used),
            ("session_ticket_keys", Used),
            ("validation_context", Used),
            ("generic_secret", Ignored("nothing here takes one: who names it is refused")),
        ],
    ),
    ("envoy.extensions.transport_sockets.tls.v3.TlsSessionTicketKeys", &[("keys", Used)]),
    (
        "envoy.extensions.transport_sockets.tls.v3.TlsParameters",
        &[
            ("tls_minimum_protocol_version", Used),
            ("tls_maximum_protocol_version", Used),
            ("cipher_suites", Used),
            ("ecdh_curves", Used),
            ("signature_algorithms", Used),
            ("compliance_policies", Used),
        ],
    ),
    (
        "envoy.extensions.transport_sockets.tls.v3.TlsCertificate",
        &[
            ("certificate_chain", Used),
            ("private_key", Used),
            ("pkcs12", Used),
            ("watched_directory", Used),
            ("private_key_provider", Rejected("keys of providers are not available")),
            ("password", Used),
            ("ocsp_staple", Used),
            ("signed_certificate_timestamp", Ignored("is not implemented in Envoy either")),
            ("tls_params", Used),
        ],
    ),
    (
        "envoy.extensions.transport_sockets.tls.v3.CertificateValidationContext",
        &[
            ("trusted_ca", Used),
            ("ca_certificate_provider_instance", NO_PROVIDERS),
            ("system_root_certs", Rejected("name them by trusted_ca")),
            ("watched_directory", Used),
            ("verify_certificate_spki", Used),
            ("verify_certificate_hash", Used),
            ("match_typed_subject_alt_names", Used),
            ("match_subject_alt_names", Used),
            ("require_signed_certificate_timestamp", Rejected("is not implemented, nor is it in Envoy")),
            ("crl", Used),
            ("allow_expired_certificate", Used),
            ("trust_chain_verification", Used),
            ("custom_validator_config", Used),
            ("only_verify_leaf_cert_crl", Used),
            ("max_verify_depth", Used),
            ("suppress_client_ca_list", Used),
        ],
    ),
    (
        "envoy.extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig",
        &[("trust_domains", Used), ("trust_bundles", Used)],
    ),
    (
        "envoy.extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig.TrustDomain",
        &[
            ("name", Used),
            ("trust_bundle", Used),
            ("workload_trust_domain", Rejected("bundles are not chosen by what filters say")),
        ],
    ),
    (
        "envoy.extensions.transport_sockets.tls.v3.SubjectAltNameMatcher",
        &[("san_type", Used), ("matcher", Used), ("oid", Used)],
    ),
];
