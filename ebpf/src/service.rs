//! From an address and port to a backend: the same steps for sockets and for packets.

use aya_ebpf::helpers::generated::bpf_get_prandom_u32;
use bowline_abi::*;

use crate::affinity;
use crate::count::count;
use crate::maps::{BACKENDS, DESCRIPTORS, FRONTENDS, NODE_ADDRESSES, SERVICES, SLOTS, VIPS};

/// What an address and port are.
#[derive(Clone, Copy)]
pub enum Found {
    /// Nothing of ours.
    Nothing,
    /// A cluster IP, but none of its ports.
    UnknownPort,
    /// A frontend.
    Frontend(Frontend),
}

/// Looks an address and port (network byte order) up. `loopback`: whether node ports are served
/// on loopback addresses to this client.
#[inline(always)]
pub fn find(address: &Address, port: u16, protocol: u8, loopback: bool) -> Found {
    let mut key = FrontendKey { address: *address, port, protocol, pad: 0 };
    // SAFETY: rows are never updated, and a deleted one's memory is left alone for a grace period.
    if let Some(frontend) = unsafe { FRONTENDS.get(&key) } {
        return Found::Frontend(*frontend);
    }
    // SAFETY: as above; a changed flag is read as the old or the new one.
    if let Some(flags) = unsafe { VIPS.get(address) } {
        return if flags & VIP_CLUSTER_IP != 0 { Found::UnknownPort } else { Found::Nothing };
    }
    // SAFETY: as above.
    let Some(flags) = (unsafe { NODE_ADDRESSES.get(address) }) else { return Found::Nothing };
    // A pod has a loopback interface of its own.
    let reachable = loopback || flags & NODE_ADDRESS_LOOPBACK == 0;
    if !reachable || flags & NODE_ADDRESS_NODE_PORTS == 0 {
        return Found::Nothing;
    }
    key.address = address.wildcard();
    // SAFETY: as above.
    match unsafe { FRONTENDS.get(&key) } {
        Some(frontend) => Found::Frontend(*frontend),
        None => Found::Nothing,
    }
}

/// The descriptor that a frontend's service port has now; `None` when it has ended.
#[inline(always)]
pub fn describe(frontend: &Frontend) -> Option<&'static Descriptor> {
    let services = SERVICES.get_ptr(frontend.service)?;
    // SAFETY: an aligned word that user space stores atomically; volatile, so that it is read once.
    let index = unsafe { services.read_volatile() };
    if index == NO_DESCRIPTOR {
        return None;
    }
    let descriptor = DESCRIPTORS.get(index)?;
    if descriptor.service != frontend.service {
        count(counter::INCONSISTENT, 0);
        return None;
    }
    Some(descriptor)
}

/// Who asks.
#[derive(Clone, Copy)]
pub struct Client {
    pub address: Address,
    /// `CLIENT_ADDRESS` (outside) or `CLIENT_NETNS` (a socket of this node).
    pub kind: u32,
}

/// A chosen backend.
#[derive(Clone, Copy)]
pub struct Choice {
    pub index: u32,
    pub backend: &'static Backend,
}

/// The outcome of a choice.
#[derive(Clone, Copy)]
pub enum Chosen {
    Backend(Choice),
    /// No endpoint: tell the client at once.
    Refuse,
    /// Endpoints on other nodes only, and a local policy.
    Drop,
}

/// Chooses a backend for a new connection or datagram.
#[inline(always)]
pub fn choose(frontend: &Frontend, descriptor: &'static Descriptor, client: &Client) -> Chosen {
    let outside = client.kind == CLIENT_ADDRESS;
    let local = if frontend.kind == KIND_CLUSTER_IP {
        descriptor.flags & DESCRIPTOR_INTERNAL_LOCAL != 0
    } else {
        outside && descriptor.flags & DESCRIPTOR_EXTERNAL_LOCAL != 0
    };
    let (first, slots) = if local {
        (descriptor.local_first, descriptor.local_count)
    } else {
        (descriptor.all_first, descriptor.all_count)
    };
    if slots == 0 {
        return if local && descriptor.endpoints != 0 { Chosen::Drop } else { Chosen::Refuse };
    }
    if descriptor.flags & DESCRIPTOR_AFFINITY != 0 {
        if let Some(choice) = affinity::recall(descriptor, client, local) {
            return Chosen::Backend(choice);
        }
    }
    // SAFETY: the helper takes nothing.
    let random = unsafe { bpf_get_prandom_u32() };
    let offset = (u64::from(random) * u64::from(slots)) >> 32;
    match backend_in_slot(first + offset as u32, descriptor.service) {
        Some(choice) => {
            if descriptor.flags & DESCRIPTOR_AFFINITY != 0 {
                affinity::remember(descriptor, client, &choice);
            }
            Chosen::Backend(choice)
        }
        None => Chosen::Refuse,
    }
}

#[inline(always)]
fn backend_in_slot(slot: u32, service: u32) -> Option<Choice> {
    let index = *SLOTS.get(slot)?;
    let backend = BACKENDS.get(index)?;
    if backend.service != service {
        count(counter::INCONSISTENT, 0);
        return None;
    }
    Some(Choice { index, backend })
}

/// A remembered backend, if it is still the same one and takes new connections.
#[inline(always)]
pub fn still_ready(index: u32, generation: u32, service: u32) -> Option<Choice> {
    let backend = BACKENDS.get(index)?;
    let same = backend.generation == generation && backend.service == service;
    (same && backend.state == BACKEND_READY).then_some(Choice { index, backend })
}

/// Whether a remembered backend is still the same one, ready or terminating.
#[inline(always)]
pub fn still_there(index: u32, generation: u32) -> bool {
    match BACKENDS.get(index) {
        Some(backend) => backend.generation == generation && backend.state != BACKEND_FREE,
        None => false,
    }
}
