//! Working memory of the packet programs: more than the 512 bytes of a program's stack.

use aya_ebpf::bindings::bpf_fib_lookup;
use aya_ebpf::macros::map;
use aya_ebpf::maps::PerCpuArray;
use bowline_abi::{Flow, FlowKey, FragmentKey};

use crate::answer::Answer;
use crate::packet::Packet;

/// What a run of a packet program works on.
#[repr(C)]
pub struct Scratch {
    pub packet: Packet,
    /// The translation of this packet: its row's value.
    pub flow: Flow,
    /// The other direction's row, while a flow is made or established.
    pub other: Flow,
    pub other_key: FlowKey,
    /// The client's row of an old flow whose place is taken.
    pub old_key: FlowKey,
    pub fragment: FragmentKey,
    pub route: bpf_fib_lookup,
    pub answer: Answer,
}

/// Ingress and egress can't share one: a packet's sending may be interrupted by a packet's arrival.
#[map]
static SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(2, 0);

/// This CPU's working memory for a direction (`DIRECTION_INGRESS` or `DIRECTION_EGRESS`). It holds
/// what an earlier run left there.
#[inline(always)]
pub fn scratch(direction: u8) -> Option<&'static mut Scratch> {
    let scratch = SCRATCH.get_ptr_mut(u32::from(direction) - 1)?;
    // SAFETY: this CPU's own value; a program runs to its end before the next of the same hook
    // starts on the same CPU. Every field is valid with any bytes.
    Some(unsafe { &mut *scratch })
}
