//! DEL: everything of one attachment goes; what is gone already is no error.

use crate::{error::Failure, link::Netlink, request::AttachmentId, state::StateDir};

/// Removes the link (with it the routes and neighbours), the file and the addresses, in this order:
/// an address is free only when nothing leads to its old pod any more.
///
/// Works without the network namespace: the node's end has a name that the id alone gives, and
/// takes the pod's end along.
pub(super) fn remove(
    state: &StateDir,
    outside: &mut Netlink,
    id: &AttachmentId,
) -> Result<(), Failure> {
    outside.delete_link(&id.host_ifname())?;
    let locked = state.lock()?;
    locked.withdraw(id)?;
    locked.release(id)?;
    Ok(())
}
