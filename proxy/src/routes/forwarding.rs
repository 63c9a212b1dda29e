//! What a host may have set so that it does not forward its pods' packets: found, set or worked
//! around, and said.

use std::io;
use std::path::{Path, PathBuf};

use ipnetwork::IpNetwork;

#[derive(Debug, thiserror::Error)]
pub enum ForwardingError {
    #[error("can't read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("can't set {} to {value}; is /proc/sys writable here?", path.display())]
    Write { path: PathBuf, value: &'static str, source: io::Error },
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Forwarding {
    host_root: PathBuf,
}

impl Forwarding {
    /// `host_root`: the root of the host's file system as seen from here.
    pub fn new(host_root: &Path) -> Self {
        Self { host_root: host_root.to_owned() }
    }

    /// Makes this node forward the packets of its pods.
    pub fn ensure(&self, own: &[IpNetwork]) -> Result<(), ForwardingError> {
        if own.iter().any(IpNetwork::is_ipv4) {
            self.set("net/ipv4/ip_forward", "1")?;
        }
        if own.iter().any(IpNetwork::is_ipv6) {
            self.set("net/ipv6/conf/all/forwarding", "1")?;
        }
        Ok(())
    }

    fn set(&self, key: &str, value: &'static str) -> Result<(), ForwardingError> {
        let path = Path::new("/proc/sys").join(key);
        let present = std::fs::read_to_string(&path)
            .map_err(|source| ForwardingError::Read { path: path.clone(), source })?;
        if present.trim() == value {
            return Ok(());
        }
        std::fs::write(&path, value).map_err(|source| ForwardingError::Write {
            path: path.clone(),
            value,
            source,
        })?;
        tracing::warn!(key, was = present.trim(), now = value, "set: pods need it");
        Ok(())
    }
}
