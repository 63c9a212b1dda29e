//! GC: every attachment goes that the runtime doesn't name.

use std::collections::BTreeSet;

use super::{del, describe};
use crate::{
    config::Config,
    error::Failure,
    link::Netlink,
    request::AttachmentId,
    state::{Attachment, StateDir},
};

/// Removes all attachments, finished or not, except the valid ones. One that fails does not keep
/// the others; the first failure is returned at the end.
pub(super) fn collect(
    config: &Config,
    state: &StateDir,
    notice: &dyn Fn(&str),
) -> Result<(), Failure> {
    let mut outside = Netlink::open()?;
    let mut known: BTreeSet<AttachmentId> = state.lock()?.holders().into_iter().collect();
    known.extend(state.all_attachments().iter().map(Attachment::id));
    let mut first_failure = Ok(());
    for id in known.difference(&config.valid_attachments) {
        match del::remove(state, &mut outside, id) {
            Ok(()) => notice(&format!("removed {}: it is not valid any more", describe(id))),
            Err(failure) => first_failure = first_failure.and(Err(failure)),
        }
    }
    first_failure
}
