//! The nftables table `bowline`: what leaves the cluster from this node's pods is masqueraded.
//!
//! ```text
//! table ip bowline {                       # and ip6
//!   chain postrouting { type nat hook postrouting priority srcnat
//!     ip daddr <each range of the cluster> return
//!     ip saddr <each pod range of this node> masquerade
//!   }
//! }
//! ```
//!
//! The table is replaced in one transaction, so that no packet sees half of it. Connections that are
//! under way keep their translation: it lives in conntrack.

use std::io;
use std::sync::Mutex;

use ipnetwork::IpNetwork;
use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};

use super::nft_message::{Batch, Family, Field, HOOK_POSTROUTING, PRIORITY_SRCNAT, Rule};

const TABLE: &str = "bowline";
const CHAIN: &str = "postrouting";
const FAMILIES: [Family; 2] = [Family::Ip, Family::Ip6];

#[derive(Debug, thiserror::Error)]
pub enum NftError {
    #[error("can't open a netfilter netlink socket; the kernel needs CONFIG_NF_TABLES")]
    Open { source: io::Error },
    #[error("can't send the nftables transaction")]
    Send { source: io::Error },
    #[error("can't read the answer to the nftables transaction")]
    Receive { source: io::Error },
    #[error("the kernel refused the nftables transaction; it needs nf_tables, nat and masquerade")]
    Refused { source: io::Error },
}

/// What was written last, so that nothing is written twice.
static WRITTEN: Mutex<Option<(Vec<IpNetwork>, Vec<IpNetwork>)>> = Mutex::new(None);

/// Masquerades what goes from the pod ranges `own` to anywhere but the ranges `cluster`.
pub(crate) fn sync(own: &[IpNetwork], cluster: &[IpNetwork]) -> Result<(), NftError> {
    let wanted = (own.to_vec(), cluster.to_vec());
    let mut written = WRITTEN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if *written == Some(wanted.clone()) {
        return Ok(());
    }
    for family in FAMILIES {
        let of = |ranges: &[IpNetwork]| -> Vec<IpNetwork> {
            ranges.iter().filter(|r| r.is_ipv4() == (family == Family::Ip)).copied().collect()
        };
        let own = of(own);
        if !own.is_empty() {
            commit(replace(family, &own, &of(cluster)))?;
        }
    }
    let said =
        |ranges: &[IpNetwork]| ranges.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let (own, cluster) = (said(own), said(cluster));
    tracing::info!(own, cluster, "pods are masqueraded outside the cluster");
    *written = Some(wanted);
    Ok(())
}

/// Deletes the table, if it is there.
pub fn remove_table() -> Result<(), NftError> {
    for family in FAMILIES {
        let mut batch = Batch::new();
        batch.add_table(family, TABLE);
        batch.delete_table(family, TABLE);
        match commit(batch) {
            // A kernel without this family has no such table.
            Err(NftError::Refused { source }) if is_unsupported(&source) => {}
            other => other?,
        }
    }
    Ok(())
}

/// Adding first makes the deletion succeed, whether the table was there or not.
fn replace(family: Family, own: &[IpNetwork], cluster: &[IpNetwork]) -> Batch {
    let mut batch = Batch::new();
    batch.add_table(family, TABLE);
    batch.delete_table(family, TABLE);
    batch.add_table(family, TABLE);
    batch.add_nat_chain(family, TABLE, CHAIN, HOOK_POSTROUTING, PRIORITY_SRCNAT);
    for range in cluster {
        let rule = Rule::new(family).matching(Field::Destination, range).leave_chain();
        batch.add_rule(TABLE, CHAIN, &rule);
    }
    for range in own {
        let rule = Rule::new(family).matching(Field::Source, range).masquerade();
        batch.add_rule(TABLE, CHAIN, &rule);
    }
    batch
}

fn is_unsupported(error: &io::Error) -> bool {
    [libc::EAFNOSUPPORT, libc::EOPNOTSUPP].map(Some).contains(&error.raw_os_error())
}

/// Sends a batch and reads its acknowledgements; the first refusal is the answer.
pub(super) fn commit(batch: Batch) -> Result<(), NftError> {
    let socket = open()?;
    let (bytes, mut expected) = batch.finish();
    send(&socket, &bytes)?;
    while expected > 0 {
        let (answer, _) = receive(&socket)?;
        for (kind, code) in errors(&answer) {
            if kind == NLMSG_ERROR && code != 0 {
                let source = io::Error::from_raw_os_error(-code);
                return Err(NftError::Refused { source });
            }
            expected = expected.saturating_sub(1);
        }
    }
    Ok(())
}

/// Sends a dump request and returns the datagrams of its answer.
pub(super) fn query(request: &[u8]) -> Result<Vec<Vec<u8>>, NftError> {
    let socket = open()?;
    send(&socket, request)?;
    let mut datagrams = Vec::new();
    loop {
        let (answer, _) = receive(&socket)?;
        match errors(&answer).first() {
            Some((NLMSG_ERROR, code)) if *code != 0 => {
                let source = io::Error::from_raw_os_error(-code);
                return Err(NftError::Refused { source });
            }
            Some(_) => {
                datagrams.push(answer);
                return Ok(datagrams);
            }
            None => datagrams.push(answer),
        }
    }
}

fn open() -> Result<Socket, NftError> {
    let failed = |source| NftError::Open { source };
    let mut socket = Socket::new(NETLINK_NETFILTER).map_err(failed)?;
    socket.bind_auto().map_err(failed)?;
    Ok(socket)
}

fn send(socket: &Socket, bytes: &[u8]) -> Result<(), NftError> {
    let sent = socket.send_to(bytes, &SocketAddr::new(0, 0), 0);
    sent.map(drop).map_err(|source| NftError::Send { source })
}

fn receive(socket: &Socket) -> Result<(Vec<u8>, SocketAddr), NftError> {
    socket.recv_from_full().map_err(|source| NftError::Receive { source })
}

/// Ends a request: an error, or with code 0 an acknowledgement.
const NLMSG_ERROR: u16 = 2;
/// Ends a dump.
const NLMSG_DONE: u16 = 3;

/// The ends in a datagram: kind and code.
fn errors(mut datagram: &[u8]) -> Vec<(u16, i32)> {
    const HEADER: usize = 16;
    let mut codes = Vec::new();
    while let Some(header) = datagram.get(..HEADER) {
        let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let kind = u16::from_ne_bytes([header[4], header[5]]);
        if [NLMSG_ERROR, NLMSG_DONE].contains(&kind) {
            let code = datagram.get(HEADER..).and_then(<[u8]>::first_chunk);
            codes.push((kind, code.map_or(0, |code| i32::from_ne_bytes(*code))));
        }
        let step = length.next_multiple_of(4).max(HEADER);
        datagram = datagram.get(step..).unwrap_or_default();
    }
    codes
}
