//! The cluster's network on this machine: namespaces, links, addresses, the way outside.

pub(crate) mod lan;
pub(crate) mod link;
pub(crate) mod nat;
pub(crate) mod netlink;
pub(crate) mod netns;
pub(crate) mod subnet;
