//! The socket hooks: connect, sendmsg, recvmsg and getpeername, for IPv4 and IPv6 sockets, and release.
//!
//! A v4-mapped address may come through any of the IPv6 hooks (TCP connect, received datagrams),
//! so every hook works on the 16-byte form.

use core::ptr::{addr_of, addr_of_mut};

use aya_ebpf::bindings::bpf_sock_addr;
use aya_ebpf::helpers::generated::{bpf_get_netns_cookie, bpf_get_socket_cookie, bpf_set_retval};
use aya_ebpf::macros::{cgroup_sock, cgroup_sock_addr};
use aya_ebpf::programs::{SockAddrContext, SockContext};
use bowline_abi::*;

use crate::count::{Subject, count, now, tell};
use crate::maps::{CONNECTED, DATAGRAMS, SETTINGS, SOCKETS};
use crate::service::{self, Choice, Chosen, Client, Found};

const ALLOW: i32 = 1;
const REFUSE: i32 = 0;
const ECONNREFUSED: i32 = 111;
/// Multipath TCP: what a service calls TCP.
const PROTOCOL_MPTCP: u32 = 262;

/// An IPv4 or IPv6 hook: where the context keeps the address.
trait Family {
    fn read(context: *mut bpf_sock_addr) -> Address;
    fn write(context: *mut bpf_sock_addr, address: &Address);
}

struct V4;
struct V6;

impl Family for V4 {
    #[inline(always)]
    fn read(context: *mut bpf_sock_addr) -> Address {
        // SAFETY: the context is valid for the whole run, and this field is readable in these hooks.
        Address::from_v4_word(unsafe { addr_of!((*context).user_ip4).read_volatile() })
    }

    #[inline(always)]
    fn write(context: *mut bpf_sock_addr, address: &Address) {
        // SAFETY: as above; the field is writable.
        unsafe { addr_of_mut!((*context).user_ip4).write_volatile(address.words[3]) }
    }
}

impl Family for V6 {
    #[inline(always)]
    fn read(context: *mut bpf_sock_addr) -> Address {
        // SAFETY: as above.
        unsafe {
            Address {
                words: [
                    addr_of!((*context).user_ip6[0]).read_volatile(),
                    addr_of!((*context).user_ip6[1]).read_volatile(),
                    addr_of!((*context).user_ip6[2]).read_volatile(),
                    addr_of!((*context).user_ip6[3]).read_volatile(),
                ],
            }
        }
    }

    #[inline(always)]
    fn write(context: *mut bpf_sock_addr, address: &Address) {
        // SAFETY: as above.
        unsafe {
            addr_of_mut!((*context).user_ip6[0]).write_volatile(address.words[0]);
            addr_of_mut!((*context).user_ip6[1]).write_volatile(address.words[1]);
            addr_of_mut!((*context).user_ip6[2]).write_volatile(address.words[2]);
            addr_of_mut!((*context).user_ip6[3]).write_volatile(address.words[3]);
        }
    }
}

#[inline(always)]
fn read_port(context: *mut bpf_sock_addr) -> u16 {
    // SAFETY: the context is valid for the whole run; the port is its low half, network order.
    unsafe { addr_of!((*context).user_port).read_volatile() as u16 }
}

#[inline(always)]
fn write_port(context: *mut bpf_sock_addr, port: u16) {
    // SAFETY: as above; the field is writable.
    unsafe { addr_of_mut!((*context).user_port).write_volatile(u32::from(port)) }
}

#[inline(always)]
fn read_protocol(context: *mut bpf_sock_addr) -> Option<u8> {
    // SAFETY: as above.
    match unsafe { addr_of!((*context).protocol).read_volatile() } {
        6 | PROTOCOL_MPTCP => Some(PROTOCOL_TCP),
        17 => Some(PROTOCOL_UDP),
        _ => None,
    }
}

#[inline(always)]
fn refuse() -> i32 {
    // SAFETY: the helper only sets this run's return value. Without it the caller would see EPERM.
    unsafe { bpf_set_retval(-ECONNREFUSED) };
    REFUSE
}

/// What a hook has found for the address that the program asked for.
enum Led {
    Nowhere,
    Refused,
    To(Frontend, Choice),
}

/// The counters of connect and of sendmsg.
struct Reasons {
    no_endpoint: u32,
    unknown_port: u32,
}

const CONNECT: Reasons = Reasons {
    no_endpoint: counter::CONNECT_NO_ENDPOINT,
    unknown_port: counter::CONNECT_UNKNOWN_PORT,
};
const SENDMSG: Reasons = Reasons {
    no_endpoint: counter::SENDMSG_NO_ENDPOINT,
    unknown_port: counter::SENDMSG_UNKNOWN_PORT,
};

#[inline(always)]
fn lead(
    context: *mut bpf_sock_addr,
    address: &Address,
    port: u16,
    protocol: u8,
    reasons: &Reasons,
) -> Led {
    // SAFETY: the context is valid; the helper only reads it.
    let cookie = unsafe { bpf_get_netns_cookie(context.cast()) };
    let own = match SETTINGS.get(0) {
        Some(settings) => settings.netns_cookie == cookie,
        None => false,
    };
    let frontend = match service::find(address, port, protocol, own) {
        Found::Nothing => return Led::Nowhere,
        Found::UnknownPort => {
            tell(reasons.unknown_port, 0, &Subject::socket(*address, port, protocol, 0));
            return Led::Refused;
        }
        Found::Frontend(frontend) => frontend,
    };
    let Some(descriptor) = service::describe(&frontend) else { return Led::Nowhere };
    if frontend.kind == KIND_LOAD_BALANCER && descriptor.flags & DESCRIPTOR_SOURCE_RANGES != 0 {
        count(counter::LEFT_TO_PACKETS, 0); // the source is not known before the route is
        return Led::Nowhere;
    }
    let words = [cookie as u32, (cookie >> 32) as u32, 0, 0];
    let client = Client { address: Address { words }, kind: CLIENT_NETNS };
    match service::choose(&frontend, descriptor, &client) {
        Chosen::Backend(choice) => Led::To(frontend, choice),
        Chosen::Refuse => {
            let subject = Subject::socket(*address, port, protocol, frontend.service);
            tell(reasons.no_endpoint, 0, &subject);
            Led::Refused
        }
        Chosen::Drop => {
            count(counter::LEFT_TO_PACKETS, 0); // a drop can't be said here
            Led::Nowhere
        }
    }
}

#[inline(always)]
fn connect<F: Family>(context: &SockAddrContext) -> i32 {
    let raw = context.sock_addr;
    let Some(protocol) = read_protocol(raw) else { return ALLOW };
    let (address, port) = (F::read(raw), read_port(raw));
    let (frontend, choice) = match lead(raw, &address, port, protocol, &CONNECT) {
        Led::Nowhere => return ALLOW,
        Led::Refused => return refuse(),
        Led::To(frontend, choice) => (frontend, choice),
    };
    let asked = Socket {
        service_address: address,
        backend_address: choice.backend.address,
        service_port: port,
        backend_port: choice.backend.port,
        service: frontend.service,
        backend: choice.index,
        generation: choice.backend.generation,
    };
    note(context, asked);
    F::write(raw, &asked.backend_address);
    write_port(raw, asked.backend_port);
    count(counter::CONNECT_TRANSLATED, 0);
    ALLOW
}

/// The socket's number, which no other has as long as the machine runs.
#[inline(always)]
fn cookie(context: &SockAddrContext) -> u64 {
    // SAFETY: the context's socket is valid for the whole run; the helper only reads it.
    unsafe { bpf_get_socket_cookie(context.sock_addr.cast()) }
}

/// Remembers what a socket that connects has asked for: in CONNECTED, or in storage of its own where
/// that is full. (Rows of the kernel's own sockets stay: those have no release hook.)
#[inline(always)]
fn note(context: &SockAddrContext, mut asked: Socket) {
    if CONNECTED.insert(cookie(context), asked, 0).is_ok() {
        return;
    }
    // SAFETY: the context's socket is valid for the whole run.
    let storage = unsafe { SOCKETS.get_or_insert_ptr_mut(context, Some(&mut asked)) };
    if !storage.is_null() {
        // SAFETY: the storage lives as long as its socket, which this hook has locked. Without
        // memory for it the connection works, and shows the backend's address.
        unsafe { *storage = asked };
    }
}

/// What [`note`] has remembered.
#[inline(always)]
fn noted(context: &SockAddrContext) -> Option<&Socket> {
    // SAFETY: only the socket's own release frees its row. Were the socket connected again at this
    // moment, another's row might be read: its addresses are no match then.
    if let Some(asked) = unsafe { CONNECTED.get(cookie(context)) } {
        return Some(asked);
    }
    // SAFETY: the context's socket is valid for the whole run, and its storage lives as long.
    unsafe { SOCKETS.get_ptr_mut(context).as_ref() }
}

/// The remembered backend of this socket's earlier datagrams to the same service address.
#[inline(always)]
fn recall(sent: &mut Datagrams, address: &Address, port: u16, time: u64) -> Option<(Address, u16)> {
    for entry in &mut sent.recent {
        let same = entry.service != 0
            && entry.service_port == port
            && entry.service_address == *address
            && time - entry.last_used < UDP_STICKY_NS;
        if same && service::still_ready(entry.backend, entry.generation, entry.service).is_some() {
            entry.last_used = time;
            return Some((entry.backend_address, entry.backend_port));
        }
    }
    None
}

/// Remembers a pair in place of the same service address's, an empty or else the oldest one.
#[inline(always)]
fn remember(sent: &mut Datagrams, new: &SentDatagram) {
    let mut victim = 0;
    let mut oldest = u64::MAX;
    let mut index = 0;
    while index < RECENT_DATAGRAMS {
        let entry = &sent.recent[index];
        let same =
            entry.service_port == new.service_port && entry.service_address == new.service_address;
        let age = if same { 0 } else { entry.last_used };
        if age < oldest {
            oldest = age;
            victim = index;
        }
        index += 1;
    }
    if victim < RECENT_DATAGRAMS {
        sent.recent[victim] = *new;
    }
}

#[inline(always)]
fn sendmsg<F: Family>(context: &SockAddrContext) -> i32 {
    let raw = context.sock_addr;
    let (address, port) = (F::read(raw), read_port(raw));
    let time = now();
    // SAFETY: the context's socket is valid for the whole run.
    let storage = unsafe { DATAGRAMS.get_ptr_mut(context) };
    if !storage.is_null() {
        // SAFETY: the storage lives as long as its socket. Two threads that send on one socket may
        // both write: an entry is re-checked whenever it is used.
        if let Some((to, to_port)) = recall(unsafe { &mut *storage }, &address, port, time) {
            F::write(raw, &to);
            write_port(raw, to_port);
            count(counter::SENDMSG_TRANSLATED, 0);
            return ALLOW;
        }
    }
    let (frontend, choice) = match lead(raw, &address, port, PROTOCOL_UDP, &SENDMSG) {
        Led::Nowhere => return ALLOW,
        Led::Refused => return refuse(),
        Led::To(frontend, choice) => (frontend, choice),
    };
    let new = SentDatagram {
        service_address: address,
        backend_address: choice.backend.address,
        service_port: port,
        backend_port: choice.backend.port,
        service: frontend.service,
        backend: choice.index,
        generation: choice.backend.generation,
        last_used: time,
    };
    // SAFETY: as above. New storage is zeroed by the kernel.
    let storage = unsafe { DATAGRAMS.get_or_insert_ptr_mut(context, None) };
    if !storage.is_null() {
        // SAFETY: as above.
        remember(unsafe { &mut *storage }, &new);
    }
    F::write(raw, &new.backend_address);
    write_port(raw, new.backend_port);
    count(counter::SENDMSG_TRANSLATED, 0);
    ALLOW
}

/// Shows a datagram's source, or a socket's peer, as the service that the program asked for.
#[inline(always)]
fn show_connected<F: Family>(context: &SockAddrContext, from: &Address, port: u16) {
    let Some(asked) = noted(context) else { return };
    if asked.backend_port == port && asked.backend_address == *from {
        F::write(context.sock_addr, &asked.service_address);
        write_port(context.sock_addr, asked.service_port);
    }
}

#[inline(always)]
fn recvmsg<F: Family>(context: &SockAddrContext) -> i32 {
    let (from, port) = (F::read(context.sock_addr), read_port(context.sock_addr));
    // SAFETY: the context's socket is valid for the whole run.
    let sent = unsafe { DATAGRAMS.get_ptr_mut(context) };
    if !sent.is_null() {
        // SAFETY: the storage lives as long as its socket.
        let sent = unsafe { &*sent };
        for entry in &sent.recent {
            let is_answer =
                entry.service != 0 && entry.backend_port == port && entry.backend_address == from;
            if is_answer {
                F::write(context.sock_addr, &entry.service_address);
                write_port(context.sock_addr, entry.service_port);
                return ALLOW;
            }
        }
    }
    show_connected::<F>(context, &from, port);
    ALLOW
}

#[inline(always)]
fn getpeername<F: Family>(context: &SockAddrContext) -> i32 {
    let (peer, port) = (F::read(context.sock_addr), read_port(context.sock_addr));
    show_connected::<F>(context, &peer, port);
    ALLOW
}

#[cgroup_sock_addr(connect4)]
pub fn connect4(context: SockAddrContext) -> i32 {
    connect::<V4>(&context)
}

#[cgroup_sock_addr(connect6)]
pub fn connect6(context: SockAddrContext) -> i32 {
    connect::<V6>(&context)
}

#[cgroup_sock_addr(sendmsg4)]
pub fn sendmsg4(context: SockAddrContext) -> i32 {
    sendmsg::<V4>(&context)
}

#[cgroup_sock_addr(sendmsg6)]
pub fn sendmsg6(context: SockAddrContext) -> i32 {
    sendmsg::<V6>(&context)
}

#[cgroup_sock_addr(recvmsg4)]
pub fn recvmsg4(context: SockAddrContext) -> i32 {
    recvmsg::<V4>(&context)
}

#[cgroup_sock_addr(recvmsg6)]
pub fn recvmsg6(context: SockAddrContext) -> i32 {
    recvmsg::<V6>(&context)
}

#[cgroup_sock_addr(getpeername4)]
pub fn getpeername4(context: SockAddrContext) -> i32 {
    getpeername::<V4>(&context)
}

#[cgroup_sock_addr(getpeername6)]
pub fn getpeername6(context: SockAddrContext) -> i32 {
    getpeername::<V6>(&context)
}

/// A socket is closed: what it asked for is forgotten.
#[cgroup_sock(sock_release)]
pub fn release(context: SockContext) -> i32 {
    // SAFETY: the context's socket is valid for the whole run; the helper only reads it.
    let cookie = unsafe { bpf_get_socket_cookie(context.sock.cast()) };
    // Most sockets have asked for no service.
    let _ = CONNECTED.remove(cookie);
    ALLOW
}
