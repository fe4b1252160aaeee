//! TLS of outgoing connections: calls of webhooks, and commands.

use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};

/// Trusts the root certificates of the system. Without any, every TLS handshake fails.
pub fn client_config() -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring supports the default versions")
        .with_root_certificates(roots)
        .with_no_client_auth()
}
