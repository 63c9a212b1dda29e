//! A million readers against writers: never a foreign backend, never half an update.
//!
//! Readers are UDP connects through the connect4 hook, whose outcome getpeername shows (the hook
//! that would show the service's address again is detached). A backend's address says whose it is
//! and of which version: its first byte and the other three. An update is seen whole: a reader that began after
//! version v was in place may see v or later, and nothing from after it ended.
//!
//! The same race is run with each protection taken out, and must then be lost.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bowline_proxy::loader::sys;
use bowline_proxy::maps::abi::*;
use bowline_proxy::maps::{BackendIndex, BpfMaps, DescriptorIndex, Maps, ServiceId, SlotIndex};

use crate::lab::{Lab, ip};

/// Reads in the race that must be won.
const READS: u64 = 1_000_000;
/// The longest that the races that must be lost may take to be lost.
const LONGEST: Duration = Duration::from_secs(20);
/// Backends of each service.
const BACKENDS: u32 = 2;
/// Homes for a service's slots, backends and descriptor: one is waited for when all were used.
const HOMES: u32 = 64;
/// Three bytes of an address.
const LAST_VERSION: u32 = (1 << 24) - 1;

/// Whether a writer waits until nobody reads what it is about to give out again.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Grace {
    Waited,
    TakenOut,
}

/// The homes that both services share, given out by the rules of the writer or without one.
struct Homes {
    grace: Grace,
    free: Vec<u32>,
    /// Freed since the last grace period.
    fading: Vec<u32>,
}

impl Homes {
    fn new(grace: Grace) -> Self {
        // With no grace period the fewest homes make the danger greatest.
        let homes = if grace == Grace::Waited { HOMES } else { 3 };
        Self { grace, free: (0..homes).collect(), fading: Vec::new() }
    }

    fn take(&mut self, maps: &mut BpfMaps) -> u32 {
        if self.free.is_empty() {
            maps.grace().expect("grace");
            self.free.append(&mut self.fading);
        }
        self.free.pop().expect("a free home")
    }

    fn give_back(&mut self, home: u32) {
        match self.grace {
            Grace::Waited => self.fading.push(home),
            Grace::TakenOut => self.free.push(home),
        }
    }
}

/// A service under constant update.
struct Writer {
    service: u32,
    version: u32,
    home: Option<u32>,
}

impl Writer {
    fn update(
        &mut self,
        maps: &mut BpfMaps,
        homes: &mut Homes,
        begun: &AtomicU64,
        ended: &AtomicU64,
    ) {
        self.version += 1;
        let home = homes.take(maps);
        begun.store(self.version.into(), Ordering::SeqCst);
        let base = home * BACKENDS;
        let address = IpAddr::from((self.service << 24 | self.version).to_be_bytes());
        let backend = Backend {
            address: address.into(),
            port: 9_u16.to_be(),
            flags: 0,
            state: BACKEND_READY,
            service: self.service,
            generation: self.version,
        };
        let indices = [1, 2].map(|n| BackendIndex(base + n));
        for index in indices {
            maps.write_backend(index, &backend).expect("write a backend");
        }
        maps.write_slots(SlotIndex(base), &indices).expect("write slots");
        let descriptor = Descriptor {
            service: self.service,
            all_first: base,
            all_count: BACKENDS,
            endpoints: BACKENDS,
            ..Descriptor::default()
        };
        let index = DescriptorIndex(1 + home);
        maps.write_descriptor(index, &descriptor).expect("write a descriptor");
        maps.flip(ServiceId(self.service), index).expect("flip");
        ended.store(self.version.into(), Ordering::SeqCst);
        if let Some(old) = self.home.replace(home) {
            homes.give_back(old);
        }
    }
}

/// What readers have seen that must not be.
#[derive(Debug, Default)]
struct Wrong {
    foreign: u64,
    torn: u64,
    refused: u64,
}

impl Wrong {
    fn any(&self) -> bool {
        self.foreign + self.torn + self.refused > 0
    }
}

fn detach(lab: &Lab, hook: &str) {
    let pin = lab.config.pins().join("links").join(hook);
    let link = sys::open_pin(&pin).expect("a link");
    sys::detach_link(link.as_fd()).expect("detach");
}

/// Reads service 1 while services 1 and 2 are updated; returns after READS reads, or (when the
/// race is to be lost) at the first wrong one.
fn race(grace: Grace) -> (u64, Wrong) {
    let lab = Lab::new();
    ip("route add local 1.0.0.0/8 dev lo");
    ip("route add local 2.0.0.0/8 dev lo");
    let dataplane = lab.start();
    detach(&lab, "getpeername4");
    let mut maps = dataplane.maps;
    let mut homes = Homes::new(grace);
    let mut writers = [1, 2].map(|service| Writer { service, version: 0, home: None });
    let clocks: Arc<[AtomicU64; 4]> = Arc::default();
    for writer in &mut writers {
        let side = 2 * (writer.service as usize - 1);
        writer.update(&mut maps, &mut homes, &clocks[side], &clocks[side + 1]);
    }
    let address = "10.96.0.10".parse::<IpAddr>().expect("literal").into();
    let row = Frontend { service: 1, kind: KIND_CLUSTER_IP };
    maps.insert_frontend(&FrontendKey::new(address, 80, PROTOCOL_UDP), &row).expect("a frontend");
    let done = Arc::new(AtomicBool::new(false));
    let reader = {
        let (clocks, done) = (clocks.clone(), done.clone());
        std::thread::spawn(move || {
            let result = read(grace, &clocks);
            done.store(true, Ordering::SeqCst);
            result
        })
    };
    while !done.load(Ordering::SeqCst) {
        for writer in &mut writers {
            assert!(writer.version < LAST_VERSION, "more versions than an address can say");
            let side = 2 * (writer.service as usize - 1);
            writer.update(&mut maps, &mut homes, &clocks[side], &clocks[side + 1]);
        }
    }
    let (reads, mut wrong) = reader.join().expect("the reader");
    let counters = maps.counters().expect("counters");
    wrong.foreign += counters[counter::INCONSISTENT as usize].packets;
    (reads, wrong)
}

fn read(grace: Grace, clocks: &[AtomicU64; 4]) -> (u64, Wrong) {
    let socket = UdpSocket::bind("0.0.0.0:0").expect("bind");
    let service: SocketAddr = "10.96.0.10:80".parse().expect("literal");
    let mut wrong = Wrong::default();
    let mut reads = 0;
    let started = Instant::now();
    while reads < READS || grace == Grace::TakenOut {
        let earliest = clocks[1].load(Ordering::SeqCst);
        let outcome = socket.connect(service).and_then(|()| socket.peer_addr());
        let latest = clocks[0].load(Ordering::SeqCst);
        reads += 1;
        match outcome.map(|peer| peer.ip()) {
            Ok(IpAddr::V4(peer)) => {
                let (owner, version) = (peer.to_bits() >> 24, peer.to_bits() & LAST_VERSION);
                let version = u64::from(version);
                wrong.foreign += u64::from(owner != 1);
                wrong.torn += u64::from(owner == 1 && !(earliest..=latest).contains(&version));
            }
            _ => wrong.refused += 1,
        }
        if grace == Grace::TakenOut && (wrong.any() || started.elapsed() > LONGEST) {
            break;
        }
    }
    (reads, wrong)
}

#[test]
fn a_million_readers_never_see_a_foreign_backend_or_half_an_update() {
    let (reads, wrong) = race(Grace::Waited);
    assert!(reads >= READS, "{reads} reads");
    assert!(!wrong.any(), "{wrong:?} in {reads} reads");
}

#[test]
fn without_the_grace_period_the_race_is_lost() {
    let (reads, wrong) = race(Grace::TakenOut);
    assert!(wrong.any(), "{reads} reads, and none was wrong: what does the race test prove?");
}

/// An index that a socket remembers is given to another backend of the same service. Whether the
/// socket's next datagram goes to the new one.
fn follows_a_reused_index(raise_generation: bool) -> bool {
    let lab = Lab::new();
    ip("addr add 10.244.1.1/32 dev lo");
    ip("addr add 10.244.1.2/32 dev lo");
    let mut maps = lab.start().maps;
    let old = UdpSocket::bind("10.244.1.1:5353").expect("bind");
    let new = UdpSocket::bind("10.244.1.2:5353").expect("bind");
    let client = UdpSocket::bind("0.0.0.0:0").expect("bind");
    let backend = |server: &UdpSocket, generation| Backend {
        address: server.local_addr().expect("address").ip().into(),
        port: 5353_u16.to_be(),
        flags: 0,
        state: BACKEND_READY,
        service: 1,
        generation,
    };
    let descriptor = Descriptor { service: 1, all_count: 1, endpoints: 1, ..Descriptor::default() };
    maps.write_backend(BackendIndex(1), &backend(&old, 1)).expect("write");
    maps.write_slots(SlotIndex(0), &[BackendIndex(1)]).expect("write");
    maps.write_descriptor(DescriptorIndex(1), &descriptor).expect("write");
    maps.flip(ServiceId(1), DescriptorIndex(1)).expect("flip");
    let address = "10.96.0.10".parse::<IpAddr>().expect("literal").into();
    let row = Frontend { service: 1, kind: KIND_CLUSTER_IP };
    maps.insert_frontend(&FrontendKey::new(address, 53, PROTOCOL_UDP), &row).expect("insert");
    client.send_to(b"1", "10.96.0.10:53").expect("send");
    assert!(arrives(&old), "the first datagram");
    maps.flip(ServiceId(1), DescriptorIndex(0)).expect("flip");
    maps.grace().expect("grace");
    let generation = if raise_generation { 2 } else { 1 };
    maps.write_backend(BackendIndex(1), &backend(&new, generation)).expect("write");
    maps.flip(ServiceId(1), DescriptorIndex(1)).expect("flip");
    client.send_to(b"2", "10.96.0.10:53").expect("send");
    arrives(&new)
}

fn arrives(server: &UdpSocket) -> bool {
    server.set_read_timeout(Some(Duration::from_millis(500))).expect("set a time-out");
    server.recv(&mut [0; 8]).is_ok()
}

#[test]
fn without_generations_a_socket_goes_on_to_a_backend_that_has_gone() {
    assert!(follows_a_reused_index(true), "with generations it must follow");
    assert!(!follows_a_reused_index(false), "without them it did too: what do they do?");
}
