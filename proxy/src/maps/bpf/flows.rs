//! Expiry of established flows. FLOWS never evicts: this is how its rows go.

use std::collections::HashMap;

use bowline_abi::{FLOW_CLOSING, Flow, FlowKey, PROTOCOL_TCP};

use super::rows::Rows;
use crate::maps::MapError;

/// An open TCP connection may be silent for this long (keep-alives come every two hours).
const TCP_OPEN_NS: u64 = 3 * 3600 * SECOND;
/// After a FIN or RST, for retransmissions and the other half to end.
const TCP_CLOSING_NS: u64 = 60 * SECOND;
/// Other protocols, once answered.
const OTHER_NS: u64 = 120 * SECOND;
const SECOND: u64 = 1_000_000_000;

/// Rows deleted in one sweep; the rest wait for the next.
const MAX_SWEPT: usize = 65_536;

/// Deletes the flows whose both directions have been idle for too long.
pub(super) fn sweep(flows: &mut Rows<FlowKey, Flow>, now: u64) -> Result<usize, MapError> {
    let mut old = HashMap::new();
    flows.for_each(|key, flow| {
        if is_idle(key, flow, now) {
            old.insert(*key, *flow);
        }
        old.len() < MAX_SWEPT
    })?;
    let mut swept = 0;
    for (key, flow) in &old {
        let other = flow.other_key(key.protocol);
        // The other row may be busy (one direction silent), or already gone (half a flow).
        let alive = !old.contains_key(&other)
            && flows.get(&other)?.is_some_and(|row| !is_idle(&other, &row, now));
        if !alive {
            flows.delete(key)?;
            swept += 1;
        }
    }
    Ok(swept)
}

fn is_idle(key: &FlowKey, flow: &Flow, now: u64) -> bool {
    let limit = match (key.protocol, flow.flags & FLOW_CLOSING) {
        (PROTOCOL_TCP, 0) => TCP_OPEN_NS,
        (PROTOCOL_TCP, _) => TCP_CLOSING_NS,
        _ => OTHER_NS,
    };
    now.saturating_sub(flow.last_seen) > limit
}
