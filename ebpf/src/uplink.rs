//! tc programs of the uplinks: node ports, external and load balancer addresses for clients
//! outside the node.
//!
//! Ingress: a new flow is led to a backend. One on this node gets the packet through the node's own
//! routing, with the client's address; one on another node gets it with this node's address as the
//! source, and its reply comes back here. Egress: replies of this node's backends get the service's
//! address as their source.

use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use bowline_abi::*;

use crate::answer;
use crate::count::{Subject, count, tell};
use crate::flow;
use crate::forward;
use crate::maps::{NODE_ADDRESSES, SOURCE_RANGES, SourceRange, VIPS};
use crate::packet::{ACK, Packet, Parsed, SYN, parse};
use crate::rewrite::{Failed, translate};
use crate::scratch::{Scratch, scratch};
use crate::service::{self, Chosen, Client, Found};

/// The next program, or the stack.
const PASS: i32 = -1;
const DROP: i32 = 2;

#[inline(always)]
fn about(packet: &Packet, service: u32, direction: u8) -> Subject {
    Subject { key: packet.key, service, ifindex: packet.ifindex, direction }
}

#[inline(never)]
fn dropped(packet: &Packet, service: u32, reason: u32, direction: u8) -> i32 {
    tell(reason, packet.length, &about(packet, service, direction));
    DROP
}

#[inline(never)]
fn refused(context: &TcContext, scratch: &mut Scratch, service: u32) -> i32 {
    match answer::refuse(context, scratch) {
        Ok(reason) => {
            let packet = &scratch.packet;
            tell(reason, packet.length, &about(packet, service, DIRECTION_INGRESS));
            answer::send_back(packet)
        }
        Err(Failed) => {
            dropped(&scratch.packet, service, counter::DROP_REWRITE_FAILED, DIRECTION_INGRESS)
        }
    }
}

/// Whether an address is one that a service may be asked for at, or a translated source.
#[inline(always)]
fn is_ours(address: &Address) -> bool {
    // SAFETY: only whether the rows are there is used.
    unsafe { NODE_ADDRESSES.get(address).is_some() || VIPS.get(address).is_some() }
}

/// Translates a packet by its flow, and sends it on or up.
#[inline(never)]
fn follow(context: &TcContext, scratch: &mut Scratch) -> i32 {
    let result = translate(context, &scratch.packet, &scratch.flow).and_then(|()| {
        if scratch.flow.flags & FLOW_SNAT != 0 { forward::send(context, scratch) } else { Ok(PASS) }
    });
    match result {
        Ok(verdict) => verdict,
        Err(Failed) => {
            let reason = counter::DROP_REWRITE_FAILED;
            dropped(&scratch.packet, scratch.flow.service, reason, DIRECTION_INGRESS)
        }
    }
}

#[inline(always)]
fn source_is_allowed(frontend: &Frontend, descriptor: &Descriptor, source: Address) -> bool {
    if frontend.kind != KIND_LOAD_BALANCER || descriptor.flags & DESCRIPTOR_SOURCE_RANGES == 0 {
        return true;
    }
    let range = SourceRange { service: frontend.service, address: source };
    SOURCE_RANGES.get(aya_ebpf::maps::lpm_trie::Key::new(32 + 128, range)).is_some()
}

/// What to do with the first packet of a flow.
enum Start {
    Pass,
    Refuse(u32),
    Drop(u32, u32),
    Follow,
}

/// Leads the first packet of a flow to a backend.
#[inline(always)]
fn begin(scratch: &mut Scratch) -> Start {
    let packet = &scratch.packet;
    let key = &packet.key;
    if !packet.has_l4() {
        return Start::Pass;
    }
    let frontend = match service::find(&key.destination, key.destination_port, key.protocol, false)
    {
        Found::Frontend(frontend) => frontend,
        Found::Nothing => return Start::Pass,
        Found::UnknownPort => return Start::Refuse(0),
    };
    let Some(descriptor) = service::describe(&frontend) else { return Start::Pass };
    let service = frontend.service;
    if !source_is_allowed(&frontend, descriptor, key.source) {
        return Start::Drop(service, counter::DROP_SOURCE_RANGE);
    }
    if key.protocol == PROTOCOL_TCP && packet.flags & (SYN | ACK) != SYN {
        // The middle of a connection that is not known here: no backend would know it either.
        return Start::Refuse(service);
    }
    let client = Client { address: key.source, kind: CLIENT_ADDRESS };
    let choice = match service::choose(&frontend, descriptor, &client) {
        Chosen::Backend(choice) => choice,
        Chosen::Drop => return Start::Drop(service, counter::DROP_LOCAL_POLICY),
        Chosen::Refuse => return Start::Refuse(service),
    };
    if choice.backend.flags & BACKEND_LOCAL != 0 {
        count(counter::FLOW_LOCAL, packet.length);
        flow::make_local(scratch, service, &choice);
        return Start::Follow;
    }
    count(counter::FLOW_REMOTE, packet.length);
    match flow::make_remote(scratch, service, &choice) {
        Ok(()) => Start::Follow,
        Err(reason) => Start::Drop(service, reason),
    }
}

/// What to do with a packet of a flow; `None`: it must begin a new one.
#[inline(always)]
fn go_on(scratch: &mut Scratch) -> Option<Start> {
    let (row, established) = flow::find(&scratch.packet.key)?;
    flow::touch(row, &scratch.packet, &mut scratch.flow);
    if scratch.flow.flags & FLOW_REPLY_ROW != 0 {
        if scratch.flow.flags & FLOW_SNAT == 0 {
            return Some(Start::Pass);
        }
        if !established {
            flow::establish(scratch);
        }
        count(counter::FLOW_REPLY, scratch.packet.length);
        return Some(Start::Follow);
    }
    if flow::goes_on(&scratch.flow, &scratch.packet) {
        count(counter::FLOW_TRANSLATED, scratch.packet.length);
        return Some(Start::Follow);
    }
    flow::forget(scratch);
    None
}

#[inline(always)]
fn ingress(context: &TcContext, scratch: &mut Scratch) -> i32 {
    match parse(context, &mut scratch.packet, &mut scratch.fragment) {
        Parsed::Packet => {}
        Parsed::Other => return PASS,
        Parsed::UnknownFragment => {
            if is_ours(&scratch.packet.key.destination) {
                count(counter::DROP_UNKNOWN_FRAGMENT, scratch.packet.length);
            }
            return PASS; // the stack waits for the rest, and drops what stays incomplete
        }
    }
    if !is_ours(&scratch.packet.key.destination) {
        return PASS;
    }
    let start = match go_on(scratch) {
        Some(start) => start,
        None => begin(scratch),
    };
    match start {
        Start::Pass => PASS,
        Start::Follow => follow(context, scratch),
        Start::Refuse(service) => refused(context, scratch, service),
        Start::Drop(service, reason) => {
            dropped(&scratch.packet, service, reason, DIRECTION_INGRESS)
        }
    }
}

#[inline(always)]
fn egress(context: &TcContext, scratch: &mut Scratch) -> i32 {
    if parse(context, &mut scratch.packet, &mut scratch.fragment) != Parsed::Packet {
        return PASS;
    }
    if let Some((row, established)) = flow::find(&scratch.packet.key) {
        flow::touch(row, &scratch.packet, &mut scratch.flow);
        if scratch.flow.flags & (FLOW_REPLY_ROW | FLOW_SNAT) != FLOW_REPLY_ROW {
            return PASS;
        }
        if !established {
            flow::establish(scratch);
        }
        count(counter::FLOW_REPLY, scratch.packet.length);
        return match translate(context, &scratch.packet, &scratch.flow) {
            Ok(()) => PASS,
            Err(Failed) => {
                let reason = counter::DROP_REWRITE_FAILED;
                dropped(&scratch.packet, scratch.flow.service, reason, DIRECTION_EGRESS)
            }
        };
    }
    // SAFETY: a changed flag is read as the old or the new one.
    match unsafe { VIPS.get(&scratch.packet.key.destination) } {
        Some(flags) if flags & VIP_CLUSTER_IP != 0 => {
            dropped(&scratch.packet, 0, counter::DROP_CLUSTER_IP_EGRESS, DIRECTION_EGRESS)
        }
        _ => PASS,
    }
}

#[classifier]
pub fn uplink_ingress(context: TcContext) -> i32 {
    match scratch(DIRECTION_INGRESS) {
        Some(scratch) => ingress(&context, scratch),
        None => PASS,
    }
}

#[classifier]
pub fn uplink_egress(context: TcContext) -> i32 {
    match scratch(DIRECTION_EGRESS) {
        Some(scratch) => egress(&context, scratch),
        None => PASS,
    }
}
