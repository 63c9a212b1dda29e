//! The nodes' way outside: one nftables table that masquerades what leaves their subnet, written
//! by nfnetlink (linux/netfilter/nf_tables.h), as `nft` need not be installed.
//!
//! ```text
//! table ip bowline_NAME { chain postrouting { type nat hook postrouting priority srcnat;
//!     ip saddr SUBNET ip daddr != SUBNET masquerade } }
//! ```

use std::io;

use ipnetwork::Ipv4Network;
use nix::errno::Errno;
use nix::sys::socket::SockProtocol;

use super::netlink::{ACK, APPEND, CREATE, Message, Socket};

const SUBSYSTEM: u16 = 10 << 8;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
const NEW_TABLE: u16 = SUBSYSTEM;
const DEL_TABLE: u16 = SUBSYSTEM | 2;
const NEW_CHAIN: u16 = SUBSYSTEM | 3;
const NEW_RULE: u16 = SUBSYSTEM | 6;

const FAMILY_IPV4: u8 = 2;
const POSTROUTING: u32 = 4;
const PRIORITY_SRCNAT: u32 = 100;
const CHAIN: &str = "postrouting";

/// Offsets in the IPv4 header.
const SOURCE: u32 = 12;
const DESTINATION: u32 = 16;

const REGISTER_VERDICT_FREE: u32 = 1;
const NETWORK_HEADER: u32 = 1;
const EQUAL: u32 = 0;
const NOT_EQUAL: u32 = 1;

/// The table of a cluster. nft's own language knows no '-' in names.
pub(crate) fn table(cluster: &str) -> String {
    format!("bowline_{}", cluster.replace('-', "_"))
}

/// Writes the table anew, in one transaction.
pub(crate) fn ensure(table: &str, subnet: Ipv4Network) -> io::Result<()> {
    remove(table)?;
    let chain = message(NEW_CHAIN, CREATE)
        .text(1, table)
        .text(3, CHAIN)
        .nest(4, |hook| hook.number_be(1, POSTROUTING).number_be(2, PRIORITY_SRCNAT))
        .text(7, "nat");
    let rule = message(NEW_RULE, CREATE | APPEND | ACK).text(1, table).text(2, CHAIN).nest(
        4,
        |expressions| {
            let leaves = in_subnet(expressions, SOURCE, EQUAL, subnet);
            let leaves = in_subnet(leaves, DESTINATION, NOT_EQUAL, subnet);
            expression(leaves, "masq", |nothing| nothing)
        },
    );
    transact(vec![message(NEW_TABLE, CREATE).text(1, table), chain, rule])
}

/// Removes the table; nothing to do where there is none.
pub(crate) fn remove(table: &str) -> io::Result<()> {
    match transact(vec![message(DEL_TABLE, ACK).text(1, table)]) {
        Err(error) if is_absent(&error) => Ok(()),
        result => result,
    }
}

/// No table, or a kernel without nf_tables, where nothing of ours can be.
fn is_absent(error: &io::Error) -> bool {
    let absent = [Errno::ENOENT, Errno::EPROTONOSUPPORT, Errno::EOPNOTSUPP, Errno::EINVAL];
    absent.iter().any(|errno| error.raw_os_error() == Some(*errno as i32))
}

fn transact(messages: Vec<Message>) -> io::Result<()> {
    // nfgenmsg: family, version, then the subsystem in network order.
    let edge = |kind| Message::new(kind, 0, &[0, 0, 0, (SUBSYSTEM >> 8) as u8]);
    let mut batch = vec![edge(BATCH_BEGIN)];
    batch.extend(messages);
    batch.push(edge(BATCH_END));
    Socket::open(SockProtocol::NetlinkNetFilter)?.batch(batch)
}

fn message(kind: u16, flags: u16) -> Message {
    Message::new(kind, flags, &[FAMILY_IPV4, 0, 0, 0])
}

fn expression(list: Message, name: &str, data: impl FnOnce(Message) -> Message) -> Message {
    list.nest(1, |element| element.text(1, name).nest(2, data))
}

/// Loads an address of the packet, masks it and compares it with the subnet's.
fn in_subnet(list: Message, offset: u32, operator: u32, subnet: Ipv4Network) -> Message {
    let register = REGISTER_VERDICT_FREE;
    let list = expression(list, "payload", |data| {
        data.number_be(1, register)
            .number_be(2, NETWORK_HEADER)
            .number_be(3, offset)
            .number_be(4, 4)
    });
    let list = expression(list, "bitwise", |data| {
        data.number_be(1, register)
            .number_be(2, register)
            .number_be(3, 4)
            .nest(4, |mask| mask.attribute(1, &subnet.mask().octets()))
            .nest(5, |xor| xor.attribute(1, &[0; 4]))
    });
    expression(list, "cmp", |data| {
        data.number_be(1, register)
            .number_be(2, operator)
            .nest(3, |value| value.attribute(1, &subnet.network().octets()))
    })
}
