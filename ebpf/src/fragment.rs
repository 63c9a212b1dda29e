//! Only a datagram's first fragment carries ports: they are remembered for the others. A later
//! fragment that comes before the first is not translated.

use aya_ebpf::bindings::BPF_ANY;
use bowline_abi::{Fragment, FragmentKey};

use crate::count::now;
use crate::maps::FRAGMENTS;

/// Receivers wait no longer than this for missing fragments, so ids are not confused after it.
const LIFETIME_NS: u64 = 30_000_000_000;

/// Remembers a first fragment's ports.
#[inline(always)]
pub fn remember(key: &FragmentKey, ports: [u16; 2]) {
    let value = Fragment { source_port: ports[0], destination_port: ports[1], pad: 0, seen: now() };
    // A failure only means that the later fragments are not known.
    let _ = FRAGMENTS.insert(key, &value, BPF_ANY.into());
}

/// The ports of a later fragment.
#[inline(always)]
pub fn recall(key: &FragmentKey) -> Option<Fragment> {
    // SAFETY: copied out at once; an entry that the LRU gives away meanwhile could mislead one
    // fragment, whose datagram then fails its checksum.
    let fragment = unsafe { FRAGMENTS.get(key) }?;
    (now() - fragment.seen < LIFETIME_NS).then_some(*fragment)
}
