//! `sessionAffinity: ClientIP`, per service port.

use aya_ebpf::bindings::BPF_ANY;
use bowline_abi::{Affinity, AffinityKey, BACKEND_LOCAL, Descriptor};

use crate::count::now;
use crate::maps::AFFINITY;
use crate::service::{Choice, Client, still_ready};

#[inline(always)]
fn key(descriptor: &Descriptor, client: &Client) -> AffinityKey {
    AffinityKey { client: client.address, service: descriptor.service, client_kind: client.kind }
}

/// The client's last backend, if it is recent, still the same and ready.
#[inline(always)]
pub fn recall(descriptor: &Descriptor, client: &Client, local: bool) -> Option<Choice> {
    let key = key(descriptor, client);
    let entry = AFFINITY.get_ptr_mut(&key)?;
    let time = now();
    // SAFETY: the entry stays mapped during this run. If the LRU has given it to another key
    // meanwhile, the index and generation read are still checked against the service below.
    let (backend, generation, last_used) =
        unsafe { ((*entry).backend, (*entry).generation, (*entry).last_used) };
    if time - last_used > u64::from(descriptor.affinity_seconds) * 1_000_000_000 {
        return None;
    }
    let choice = still_ready(backend, generation, descriptor.service)?;
    if local && choice.backend.flags & BACKEND_LOCAL == 0 {
        return None;
    }
    // SAFETY: as above; one aligned word.
    unsafe { (*entry).last_used = time };
    Some(choice)
}

/// Remembers the client's backend.
#[inline(always)]
pub fn remember(descriptor: &Descriptor, client: &Client, choice: &Choice) {
    let value =
        Affinity { backend: choice.index, generation: choice.backend.generation, last_used: now() };
    // A failure only means that the client is not remembered.
    let _ = AFFINITY.insert(&key(descriptor, client), &value, BPF_ANY.into());
}
