//! The administrator's kubeconfig.

use crate::{GatewayError, pki::Credential};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::json;

/// A kubeconfig with everything in it.
pub fn admin(url: &str, ca: &str, admin: &Credential) -> Result<String, GatewayError> {
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "basalt",
        "clusters": [{ "name": "basalt", "cluster": { "server": url, "certificate-authority-data": STANDARD.encode(ca) } }],
        "contexts": [{ "name": "basalt", "context": { "cluster": "basalt", "user": "admin" } }],
        "users": [{ "name": "admin", "user": {
            "client-certificate-data": STANDARD.encode(&admin.certificate),
            "client-key-data": STANDARD.encode(&admin.key),
        } }],
    });
    serde_saphyr::to_string(&config).map_err(|e| GatewayError::Encode { what: "admin.kubeconfig", reason: e.to_string() })
}

/// A name or address with a port; IPv6 addresses in brackets.
pub fn host_port(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}
