//! What a host may have set so that it does not forward its pods' packets: found, set or worked
//! around, and said.

use std::io;
use std::path::{Path, PathBuf};

use ipnetwork::IpNetwork;

use super::legacy::LegacyError;
use super::nft::NftError;
use super::{forward_chains, legacy};

#[derive(Debug, thiserror::Error)]
pub enum ForwardingError {
    #[error("can't read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("can't set {} to {value}; is /proc/sys writable here?", path.display())]
    Write { path: PathBuf, value: &'static str, source: io::Error },
    #[error("can't open the nftables chains that drop what is forwarded")]
    Chains(#[from] NftError),
    #[error(transparent)]
    Legacy(#[from] LegacyError),
}

/// Makes this node forward the packets of its pods' ranges.
pub(super) fn ensure(own: &[IpNetwork]) -> Result<(), ForwardingError> {
    if own.iter().any(IpNetwork::is_ipv4) {
        set("net/ipv4/ip_forward", "1")?;
    }
    if own.iter().any(IpNetwork::is_ipv6) {
        set("net/ipv6/conf/all/forwarding", "1")?;
    }
    forward_chains::open_for(own)?;
    legacy::open_for(own)?;
    Ok(())
}

/// Takes back what was put into others' chains. Forwarding stays on: others may need it by now.
pub fn undo() -> Result<(), ForwardingError> {
    let chains = forward_chains::close();
    legacy::close()?;
    Ok(chains?)
}

fn set(key: &str, value: &'static str) -> Result<(), ForwardingError> {
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
