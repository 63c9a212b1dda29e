//! How every part of Bowline reaches the apiserver.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::header::{HeaderName, HeaderValue, USER_AGENT};
use kube::config::{KubeConfigOptions, Kubeconfig};

/// A server that accepts a connection but then says nothing is given up after this long; watches
/// are not under it (they have `timeoutSeconds` of their own).
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("can't read the kubeconfig {}; give one that exists and is valid", path.display())]
    ReadKubeconfig { path: PathBuf, source: kube::config::KubeconfigError },
    #[error("no kubeconfig was given and this process runs in no pod; pass --kubeconfig")]
    InCluster { source: kube::config::InClusterError },
    #[error("can't build a client for {server}")]
    Build { server: String, source: kube::Error },
}

/// A client from the kubeconfig at `kubeconfig`, or, without one, from the pod's service account
/// (`KUBERNETES_SERVICE_HOST`, `KUBERNETES_SERVICE_PORT` and the mounted token).
///
/// Call [`install_crypto`] once before.
pub async fn connect(kubeconfig: Option<&Path>) -> Result<kube::Client, ClientError> {
    let mut config = match kubeconfig {
        Some(path) => {
            let failed = |source| ClientError::ReadKubeconfig { path: path.to_owned(), source };
            let file = Kubeconfig::read_from(path).map_err(failed)?;
            kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
                .await
                .map_err(failed)?
        }
        None => kube::Config::incluster().map_err(|source| ClientError::InCluster { source })?,
    };
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    config.headers.extend(agent(std::env::args_os().next()));
    let server = config.cluster_url.to_string();
    kube::Client::try_from(config).map_err(|source| ClientError::Build { server, source })
}

/// Who asks: the program's name, which the apiserver also writes beside the fields that it sets.
fn agent(program: Option<OsString>) -> Option<(HeaderName, HeaderValue)> {
    let program = PathBuf::from(program?);
    let name = program.file_name()?.to_str()?;
    let value = HeaderValue::from_str(&format!("{name}/{}", env!("CARGO_PKG_VERSION"))).ok()?;
    Some((USER_AGENT, value))
}

/// Makes aws-lc-rs this process's TLS implementation. Later calls change nothing.
pub fn install_crypto() {
    // An error says that another thread installed it first, which is as good.
    let _already = rustls::crypto::aws_lc_rs::default_provider().install_default();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_say_which_program_sends_them() {
        let (name, value) = agent(Some("/usr/bin/bowline-dns".into())).expect("a name");
        assert_eq!(name, USER_AGENT);
        assert!(value.to_str().is_ok_and(|text| text.starts_with("bowline-dns/")), "{value:?}");
        assert!(agent(Some("\u{1}".into())).is_none(), "what can't be said is left out");
    }
}
