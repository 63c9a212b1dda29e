//! DEL: everything of one attachment goes; what is gone already is no error.

use std::time::Duration;

use crate::{error::Failure, link::Netlink, request::AttachmentId, state::StateDir};

/// How long a packet may take from the routing decision through the pod and back.
const IN_FLIGHT: Duration = Duration::from_millis(5);

/// Removes the routes, the link (with it the neighbours), the file and the addresses, in this order:
/// an address is free only when nothing leads to its old pod any more.
///
/// The routes go first, because the kernel takes a link down some milliseconds before it drops the
/// routes by it. What is sent in between would vanish; without the route it is refused as
/// unreachable.
///
/// Works without the network namespace: the node's end has a name that the id alone gives, and
/// takes the pod's end along. An attachment whose file is lost loses its routes with the link.
pub(super) fn remove(
    state: &StateDir,
    outside: &mut Netlink,
    id: &AttachmentId,
) -> Result<(), Failure> {
    if let Some(attachment) = state.attachment(id) {
        for address in &attachment.addresses {
            outside.delete_route(*address, attachment.host_ifindex)?;
        }
        // What was on its way by then reaches the pod, and the pod's refusal comes back.
        std::thread::sleep(IN_FLIGHT);
    }
    outside.delete_link(&id.host_ifname())?;
    let locked = state.lock()?;
    locked.withdraw(id)?;
    locked.release(id)?;
    Ok(())
}
