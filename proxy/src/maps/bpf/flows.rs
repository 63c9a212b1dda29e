//! Expiry of established flows. FLOWS never evicts: this is how its rows go.

use std::collections::HashMap;

use bowline_abi::{FLOW_CLOSING, Flow, FlowKey, PROTOCOL_TCP};

use super::rows::Rows;
use crate::maps::MapError;

/// An open TCP connection may be silent for this long (keep-alives come every two hours).
const TCP_OPEN_NS: u64 = 3 * 3600 * SECOND;
/// After a FIN or RST in either direction, for retransmissions and the other half to end.
const TCP_CLOSING_NS: u64 = 20 * SECOND;
/// Other protocols, once answered.
const OTHER_NS: u64 = 120 * SECOND;
const SECOND: u64 = 1_000_000_000;

/// Rows looked at in one sweep; the rest wait for the next.
const MAX_SWEPT: usize = 65_536;

/// Deletes the flows that have been idle for too long.
pub(super) fn sweep(flows: &mut Rows<FlowKey, Flow>, now: u64) -> Result<usize, MapError> {
    let mut idle = HashMap::new();
    flows.for_each(|key, flow| {
        let shortest = limit(key, FLOW_CLOSING);
        if now.saturating_sub(flow.last_seen) > shortest {
            idle.insert(*key, *flow);
        }
        idle.len() < MAX_SWEPT
    })?;
    let mut swept = 0;
    for (key, flow) in &idle {
        let other_key = flow.other_key(key.protocol);
        let other = match idle.get(&other_key) {
            Some(other) => Some(*other),
            None => flows.get(&other_key)?,
        };
        if is_over(key, flow, other.as_ref(), now) {
            flows.delete(key)?;
            swept += 1;
        }
    }
    Ok(swept)
}

fn limit(key: &FlowKey, flags: u32) -> u64 {
    match (key.protocol, flags & FLOW_CLOSING) {
        (PROTOCOL_TCP, 0) => TCP_OPEN_NS,
        (PROTOCOL_TCP, _) => TCP_CLOSING_NS,
        _ => OTHER_NS,
    }
}

/// Whether a flow is over, by both of its rows: one direction may be silent for long, and either
/// may end it.
fn is_over(key: &FlowKey, flow: &Flow, other: Option<&Flow>, now: u64) -> bool {
    let flags = flow.flags | other.map_or(0, |other| other.flags);
    let last_seen = flow.last_seen.max(other.map_or(0, |other| other.last_seen));
    now.saturating_sub(last_seen) > limit(key, flags)
}

#[cfg(test)]
mod tests {
    use super::{OTHER_NS, TCP_CLOSING_NS, TCP_OPEN_NS, is_over};
    use bowline_abi::{Address, FLOW_CLOSING, Flow, FlowKey, PROTOCOL_TCP, PROTOCOL_UDP};

    fn key(protocol: u8) -> FlowKey {
        let (source, destination) = (Address::default(), Address::default());
        let (source_port, destination_port) = (0, 0);
        FlowKey { source, destination, source_port, destination_port, protocol, pad: [0; 3] }
    }

    fn row(last_seen: u64, flags: u32) -> Flow {
        Flow {
            source: Address::default(),
            destination: Address::default(),
            source_port: 0,
            destination_port: 0,
            flags,
            service: 1,
            backend: 1,
            generation: 1,
            pad: 0,
            created: 0,
            last_seen,
            packets: 1,
        }
    }

    #[test]
    fn a_flow_lives_as_long_as_its_busier_direction() {
        let now = 10 * TCP_OPEN_NS;
        let (busy, silent) = (row(now - 1, 0), row(0, 0));
        for protocol in [PROTOCOL_TCP, PROTOCOL_UDP] {
            assert!(!is_over(&key(protocol), &silent, Some(&busy), now));
            assert!(is_over(&key(protocol), &silent, Some(&silent), now));
            assert!(is_over(&key(protocol), &silent, None, now), "half a flow");
        }
        let answered = row(now - OTHER_NS - 1, 0);
        assert!(is_over(&key(PROTOCOL_UDP), &answered, Some(&answered), now));
        assert!(!is_over(&key(PROTOCOL_TCP), &answered, Some(&answered), now));
    }

    #[test]
    fn either_direction_ends_a_connection() {
        let now = 10 * TCP_OPEN_NS;
        let (open, reset) = (row(now - TCP_CLOSING_NS - 1, 0), row(0, FLOW_CLOSING));
        assert!(is_over(&key(PROTOCOL_TCP), &open, Some(&reset), now));
        assert!(is_over(&key(PROTOCOL_TCP), &reset, Some(&open), now));
        let recent = row(now - TCP_CLOSING_NS + 1, 0);
        assert!(!is_over(&key(PROTOCOL_TCP), &recent, Some(&reset), now));
    }
}
