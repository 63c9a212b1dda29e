//! STATUS: whether an ADD would succeed now.

use super::exhausted;
use crate::{
    config::Config, error::Failure, link::Netlink, request::AttachmentId, state::StateDir,
};

pub(super) fn status(
    config: &Config,
    state: &StateDir,
    notice: &dyn Fn(&str),
) -> Result<(), Failure> {
    let mut outside = Netlink::open()?;
    let mut unlink = |id: &AttachmentId| super::unlink(&mut outside, id, notice);
    let room = state.lock()?.has_room(&config.ranges, &mut unlink)?;
    if room { Ok(()) } else { Err(exhausted(config)) }
}
