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

use super::netlink::{ACK, APPEND, CREATE, DUMP, Message, Socket, attributes};

const SUBSYSTEM: u16 = 10 << 8;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
const NEW_TABLE: u16 = SUBSYSTEM;
const DEL_TABLE: u16 = SUBSYSTEM | 2;
const NEW_CHAIN: u16 = SUBSYSTEM | 3;
const GET_CHAIN: u16 = SUBSYSTEM | 4;
const NEW_RULE: u16 = SUBSYSTEM | 6;

const FAMILY_IPV4: u8 = 2;
const FORWARD: u32 = 2;
const POSTROUTING: u32 = 4;
const DROP: u32 = 0;
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

/// The chain (`TABLE NAME`) whose policy drops forwarded IPv4 packets, if there is one. An accept in
/// a table of ours could not overrule it.
pub(crate) fn forward_is_dropped() -> io::Result<Option<String>> {
    let mut socket = Socket::open(SockProtocol::NetlinkNetFilter)?;
    let chains = socket.query(message(GET_CHAIN, DUMP))?;
    Ok(chains.iter().find_map(|chain| dropping_forward(chain.get(4..)?)))
}

fn dropping_forward(chain: &[u8]) -> Option<String> {
    let chain = attributes(chain);
    let value = |wanted| chain.iter().find(|(kind, _)| *kind == wanted).map(|(_, value)| *value);
    let be = |bytes: &[u8]| bytes.try_into().ok().map(u32::from_be_bytes);
    let hook = attributes(value(4)?).iter().find(|(kind, _)| *kind == 1).and_then(|(_, v)| be(v));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end_matches('\0').to_owned();
    let drops = hook == Some(FORWARD) && value(5).and_then(be) == Some(DROP);
    drops.then(|| {
        format!("{} {}", text(value(1).unwrap_or_default()), text(value(3).unwrap_or_default()))
    })
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

#[cfg(test)]
mod tests {
    use std::process::Command;

    use nix::sched::{CloneFlags, unshare};

    use super::*;

    fn nft(arguments: &str) -> String {
        let output = Command::new("nft").args(arguments.split(' ')).output().expect("nft runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Each test has a thread of its own, so its own namespace ends with it.
    fn in_own_namespace() {
        unshare(CloneFlags::CLONE_NEWNET).expect("root may make network namespaces");
    }

    #[test]
    fn the_table_reads_in_nft_as_it_is_meant_and_goes_again() {
        in_own_namespace();
        let subnet = "192.168.77.0/24".parse().expect("a subnet");
        remove("bowline_x").expect("nothing to remove is no error");
        for _ in 0..2 {
            ensure("bowline_x", subnet).expect("written");
            let table = nft("list table ip bowline_x");
            let rule = "ip saddr 192.168.77.0/24 ip daddr != 192.168.77.0/24 masquerade";
            assert_eq!(table.matches(rule).count(), 1, "{table}");
            assert!(table.contains("type nat hook postrouting priority srcnat"), "{table}");
        }
        remove("bowline_x").expect("removed");
        assert_eq!(nft("list tables"), "");
    }

    #[test]
    fn a_firewall_that_forwards_nothing_is_noticed() {
        in_own_namespace();
        assert_eq!(forward_is_dropped().expect("readable"), None);
        nft("add table ip filter");
        nft(
            "add chain ip filter FORWARD { type filter hook forward priority 0 ; policy accept ; }",
        );
        nft("add chain ip filter INPUT { type filter hook input priority 0 ; policy drop ; }");
        assert_eq!(forward_is_dropped().expect("readable"), None);
        nft("add chain ip filter FORWARD { policy drop ; }");
        assert_eq!(forward_is_dropped().expect("readable").as_deref(), Some("filter FORWARD"));
    }
}
