//! Counting by reason, and telling user space about refusals and drops.

use aya_ebpf::helpers::generated::bpf_ktime_get_ns;
use bowline_abi::{Address, Event, FlowKey};

use crate::maps::{COUNTERS, EVENTS};

/// Monotonic nanoseconds.
#[inline(always)]
pub fn now() -> u64 {
    // SAFETY: the helper takes nothing and only reads a clock.
    unsafe { bpf_ktime_get_ns() }
}

/// Adds one to a counter.
#[inline(always)]
pub fn count(reason: u32, bytes: u32) {
    if let Some(counter) = COUNTERS.get_ptr_mut(reason) {
        // SAFETY: the pointer is to this CPU's own value, and a program is not interrupted by
        // another run of the same hook on the same CPU (a lost count would do no harm).
        unsafe {
            (*counter).packets += 1;
            (*counter).bytes += u64::from(bytes);
        }
    }
}

/// What a refusal or drop was about.
pub struct Subject {
    pub key: FlowKey,
    pub service: u32,
    pub ifindex: u32,
    pub direction: u8,
}

impl Subject {
    /// A socket that asked for `address` and `port`; its source is not yet known.
    #[inline(always)]
    pub fn socket(address: Address, port: u16, protocol: u8, service: u32) -> Self {
        let key = FlowKey {
            source: Address { words: [0; 4] },
            destination: address,
            source_port: 0,
            destination_port: port,
            protocol,
            pad: [0; 3],
        };
        Self { key, service, ifindex: 0, direction: bowline_abi::DIRECTION_SOCKET }
    }
}

/// Adds one to a counter, and an event to the ring; a full ring loses the event.
#[inline(always)]
pub fn tell(reason: u32, bytes: u32, subject: &Subject) {
    count(reason, bytes);
    if let Some(mut entry) = EVENTS.reserve::<Event>(0) {
        entry.write(Event {
            time: now(),
            source: subject.key.source,
            destination: subject.key.destination,
            source_port: subject.key.source_port,
            destination_port: subject.key.destination_port,
            reason,
            service: subject.service,
            ifindex: subject.ifindex,
            protocol: subject.key.protocol,
            direction: subject.direction,
            pad: [0; 6],
        });
        entry.submit(0);
    }
}
