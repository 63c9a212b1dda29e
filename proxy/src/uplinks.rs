//! Which interfaces get the packet programs.

use crate::loader::{Dataplane, LoadError, detect_uplinks};

/// Attaches the packet programs to `named` interfaces, all of which must take them; or, if none is
/// named, to those that lead out of the node, where one that does not take them is only said.
pub fn attach(plane: &Dataplane, named: &[String]) -> Result<(), LoadError> {
    for name in named {
        let kind = plane.attach_uplink(name)?;
        tracing::info!(interface = %name, ?kind, "packet programs attached");
    }
    if !named.is_empty() {
        return Ok(());
    }
    let found = detect_uplinks();
    if found.is_empty() {
        tracing::warn!("no interface leads out of this node; node ports answer inside only");
    }
    for name in found {
        match plane.attach_uplink(&name) {
            Ok(kind) => tracing::info!(interface = %name, ?kind, "packet programs attached"),
            Err(error) => {
                tracing::warn!(interface = %name, %error, "no node ports by this interface");
            }
        }
    }
    Ok(())
}
