//! Kubeconfig files, for people and for our own processes.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use crate::pki::Pair;

/// A kubeconfig with one cluster and one user whose certificate is inside the file, so that it can
/// be copied anywhere.
pub fn with_certificate(server: &str, ca_pem: &str, user: &str, pair: &Pair) -> String {
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "bowline", "cluster": {
            "server": server,
            "certificate-authority-data": STANDARD.encode(ca_pem),
        }}],
        "users": [{"name": user, "user": {
            "client-certificate-data": STANDARD.encode(&pair.cert),
            "client-key-data": STANDARD.encode(&pair.key),
        }}],
        "contexts": [{"name": "bowline", "context": {"cluster": "bowline", "user": user}}],
        "current-context": "bowline",
    });
    // JSON is YAML, but people read and edit these files.
    serde_yaml::to_string(&config).unwrap_or_else(|_| config.to_string())
}

/// The same kubeconfig, its clusters at another server; none when it is no kubeconfig. Unchanged,
/// byte by byte, when it names this server already.
pub fn with_server(kubeconfig: &str, server: &str) -> Option<String> {
    let mut config: serde_json::Value = serde_yaml::from_str(kubeconfig).ok()?;
    let mut changed = false;
    for entry in config.get_mut("clusters")?.as_array_mut()? {
        let named = entry.pointer_mut("/cluster/server")?;
        changed |= named != server;
        *named = json!(server);
    }
    if changed { serde_yaml::to_string(&config).ok() } else { Some(kubeconfig.to_owned()) }
}
