//! STATUS: whether an ADD would succeed now.

use super::exhausted;
use crate::{config::Config, error::Failure, link::Netlink, state::StateDir};

pub(super) fn status(config: &Config, state: &StateDir) -> Result<(), Failure> {
    Netlink::open()?;
    if state.lock()?.has_room(&config.ranges)? { Ok(()) } else { Err(exhausted(config)) }
}
