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
    let known = state.attachment(id);
    outside.delete_link(&id.host_ifname())?;
    state.withdraw(id)?;
    let locked = state.lock()?;
    match known {
        Some(attachment) => locked.release_known(id, &attachment.addresses)?,
        None => locked.release(id)?,
    }
    Ok(())
}
