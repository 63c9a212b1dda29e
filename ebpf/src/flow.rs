//! Flow tracking: a flow has a row for each direction, unreplied in the LRU, established in FLOWS.

use aya_ebpf::bindings::{BPF_ANY, BPF_NOEXIST};
use aya_ebpf::helpers::generated::bpf_get_prandom_u32;
use bowline_abi::*;

use crate::count::{count, now};
use crate::maps::{FLOWS, NEW_FLOWS, NODE_ADDRESSES, SETTINGS};
use crate::packet::{FIN, Packet, RST, SYN};
use crate::scratch::Scratch;
use crate::service::{Choice, still_ready, still_there};

/// Ports that source translation tries before it gives up.
const PORT_ATTEMPTS: u32 = 16;

/// A connection that its backend has closed gives its port up after this long.
const CLOSED_NS: u64 = 1_000_000_000;
/// Other protocols' flows do after this long without an answer.
const SILENT_NS: u64 = 30_000_000_000;

/// The row of a packet.
#[inline(always)]
pub fn find(key: &FlowKey) -> Option<(*mut Flow, bool)> {
    match FLOWS.get_ptr_mut(key) {
        Some(row) => Some((row, true)),
        None => NEW_FLOWS.get_ptr_mut(key).map(|row| (row, false)),
    }
}

/// Notes that a packet of this row has passed, and copies the row's value.
#[inline(always)]
pub fn touch(row: *mut Flow, packet: &Packet, flow: &mut Flow) {
    // SAFETY: the row stays mapped during this run; two CPUs may lose a count of packets.
    unsafe {
        (*row).last_seen = now();
        (*row).packets += 1;
        if packet.flags & (FIN | RST) != 0 {
            (*row).flags |= FLOW_CLOSING;
        }
        *flow = *row;
    }
}

/// Whether a packet of the client's may go on with this flow, or must start a new one.
#[inline(always)]
pub fn goes_on(flow: &Flow, packet: &Packet) -> bool {
    if packet.key.protocol == PROTOCOL_TCP {
        let reused = packet.flags & SYN != 0 && flow.flags & FLOW_CLOSING != 0;
        // A connection ends with its backend and not before; only a new one may be led elsewhere.
        return !reused && still_there(flow.backend, flow.generation)
            || packet.flags & SYN == 0 && packet.has_l4();
    }
    still_ready(flow.backend, flow.generation, flow.service).is_some()
}

/// Forgets both rows of this packet's flow.
#[inline(always)]
pub fn forget(scratch: &mut Scratch) {
    let key = &scratch.packet.key;
    scratch.other_key = scratch.flow.other_key(key.protocol);
    // Rows that are not there need no forgetting.
    let _ = FLOWS.remove(key);
    let _ = FLOWS.remove(&scratch.other_key);
    let _ = NEW_FLOWS.remove(key);
    let _ = NEW_FLOWS.remove(&scratch.other_key);
}

/// Moves a flow whose first reply has come (this packet) out of the LRU's reach. When FLOWS is full
/// the flow goes on where it is.
#[inline(always)]
pub fn establish(scratch: &mut Scratch) {
    let key = &scratch.packet.key;
    scratch.other_key = scratch.flow.other_key(key.protocol);
    scratch.other = scratch.flow;
    scratch.other.source = key.destination;
    scratch.other.destination = key.source;
    scratch.other.source_port = key.destination_port;
    scratch.other.destination_port = key.source_port;
    scratch.other.flags &= FLOW_SNAT;
    let stored = FLOWS.insert(key, &scratch.flow, BPF_ANY.into()).is_ok()
        && FLOWS.insert(&scratch.other_key, &scratch.other, BPF_ANY.into()).is_ok();
    if !stored {
        let _ = FLOWS.remove(key);
        count(counter::FLOWS_FULL, 0);
        return;
    }
    let _ = NEW_FLOWS.remove(key);
    let _ = NEW_FLOWS.remove(&scratch.other_key);
}

/// Prepares both rows: `flow` for this packet's direction, `other` for the replies.
#[inline(always)]
fn prepare(scratch: &mut Scratch, service: u32, choice: &Choice, source: Address, port: u16) {
    let key = &scratch.packet.key;
    let snat = if source == key.source { 0 } else { FLOW_SNAT };
    let time = now();
    let flow = &mut scratch.flow;
    flow.source = source;
    flow.destination = choice.backend.address;
    flow.source_port = port;
    flow.destination_port = choice.backend.port;
    flow.flags = snat;
    flow.service = service;
    flow.backend = choice.index;
    flow.generation = choice.backend.generation;
    flow.pad = 0;
    flow.created = time;
    flow.last_seen = time;
    flow.packets = 1;
    scratch.other = *flow;
    scratch.other.source = key.destination;
    scratch.other.destination = key.source;
    scratch.other.source_port = key.destination_port;
    scratch.other.destination_port = key.source_port;
    scratch.other.flags = snat | FLOW_REPLY_ROW;
    scratch.other.packets = 0;
    scratch.other_key = scratch.flow.other_key(key.protocol);
}

/// Makes a flow to a backend on this node: the client's address is kept.
#[inline(always)]
pub fn make_local(scratch: &mut Scratch, service: u32, choice: &Choice) {
    let (source, port) = (scratch.packet.key.source, scratch.packet.key.source_port);
    prepare(scratch, service, choice, source, port);
    // The LRU makes room. A client that uses one port for two services on one backend at a time
    // loses the older of them.
    let _ = NEW_FLOWS.insert(&scratch.other_key, &scratch.other, BPF_ANY.into());
    let _ = NEW_FLOWS.insert(&scratch.packet.key, &scratch.flow, BPF_ANY.into());
}

/// The address that stands for the client towards other nodes.
#[inline(always)]
fn snat_address(key: &FlowKey, settings: &Settings) -> Option<Address> {
    let own = if key.source.is_v4() { settings.node_v4 } else { settings.node_v6 };
    if own.words != [0; 4] {
        return Some(own);
    }
    // SAFETY: only whether the row is there is used. A reply must come back to this node.
    unsafe { NODE_ADDRESSES.get(&key.destination) }.map(|_| key.destination)
}

/// Forgets a flow whose replies would come to the port that is being tried, if it is over: a port
/// must not wait for the sweep while clients wait for ports.
#[inline(always)]
fn make_room(scratch: &mut Scratch) {
    let Some((row, _)) = find(&scratch.other_key) else { return };
    let protocol = scratch.other_key.protocol;
    // SAFETY: the row stays mapped during this run; what it says is only a hint of its age.
    let over = unsafe {
        let idle = now() - (*row).last_seen;
        if protocol == PROTOCOL_TCP {
            (*row).flags & FLOW_CLOSING != 0 && idle > CLOSED_NS
        } else {
            idle > SILENT_NS
        }
    };
    if !over {
        return;
    }
    // SAFETY: as above. A row that is given away meanwhile names rows of another flow that is as
    // new as can be; its next packet makes it again.
    scratch.old_key = unsafe { (*row).other_key(protocol) };
    let _ = FLOWS.remove(&scratch.old_key);
    let _ = FLOWS.remove(&scratch.other_key);
    let _ = NEW_FLOWS.remove(&scratch.old_key);
    let _ = NEW_FLOWS.remove(&scratch.other_key);
}

/// Makes a flow to a backend on another node: the reply must come back here, so the source
/// becomes this node's address and a port that is free towards that backend. What failed is the
/// reason's counter.
#[inline(always)]
pub fn make_remote(scratch: &mut Scratch, service: u32, choice: &Choice) -> Result<(), u32> {
    let settings = SETTINGS.get(0).ok_or(counter::SNAT_NO_ADDRESS)?;
    let address = snat_address(&scratch.packet.key, settings).ok_or(counter::SNAT_NO_ADDRESS)?;
    let (mut first, mut last) = (u32::from(settings.snat_first), u32::from(settings.snat_last));
    if first == 0 || last < first {
        (first, last) = (SNAT_FIRST_PORT.into(), SNAT_LAST_PORT.into());
    }
    let ports = last - first + 1;
    prepare(scratch, service, choice, address, 0);
    let mut attempt = 0;
    while attempt < PORT_ATTEMPTS {
        // SAFETY: the helper takes nothing.
        let random = unsafe { bpf_get_prandom_u32() };
        let offset = ((u64::from(random) * u64::from(ports)) >> 32) as u32;
        let port = ((first + offset) as u16).to_be();
        scratch.flow.source_port = port;
        scratch.other_key.destination_port = port;
        make_room(scratch);
        // SAFETY: only whether the row is there is used.
        let free = unsafe { FLOWS.get(&scratch.other_key) }.is_none();
        if free && NEW_FLOWS.insert(&scratch.other_key, &scratch.other, BPF_NOEXIST.into()).is_ok()
        {
            let _ = NEW_FLOWS.insert(&scratch.packet.key, &scratch.flow, BPF_ANY.into());
            return Ok(());
        }
        attempt += 1;
    }
    Err(counter::SNAT_EXHAUSTED)
}
