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
pub(super) fn sync(own: &[IpNetwork], cluster: &[IpNetwork]) -> Result<(), NftError> {
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
    tracing::info!(?own, ?cluster, "pods are masqueraded outside the cluster");
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
fn commit(batch: Batch) -> Result<(), NftError> {
    let mut socket = Socket::new(NETLINK_NETFILTER).map_err(|source| NftError::Open { source })?;
    socket.bind_auto().map_err(|source| NftError::Open { source })?;
    let (bytes, mut expected) = batch.finish();
    socket
        .send_to(&bytes, &SocketAddr::new(0, 0), 0)
        .map_err(|source| NftError::Send { source })?;
    while expected > 0 {
        let (answer, _) = socket.recv_from_full().map_err(|source| NftError::Receive { source })?;
        for code in errors(&answer) {
            if code != 0 {
                let source = io::Error::from_raw_os_error(-code);
                return Err(NftError::Refused { source });
            }
            expected = expected.saturating_sub(1);
        }
    }
    Ok(())
}

/// The codes of all NLMSG_ERROR messages in a datagram; 0 is an acknowledgement.
fn errors(mut datagram: &[u8]) -> Vec<i32> {
    const HEADER: usize = 16;
    const NLMSG_ERROR: u16 = 2;
    let mut codes = Vec::new();
    while let Some(header) = datagram.get(..HEADER) {
        let word = |at: usize| [header[at], header[at + 1], header[at + 2], header[at + 3]];
        let length = u32::from_ne_bytes(word(0)) as usize;
        let kind = u16::from_ne_bytes([header[4], header[5]]);
        if kind == NLMSG_ERROR
            && let Some(code) = datagram.get(HEADER..HEADER + 4)
        {
            codes.push(i32::from_ne_bytes([code[0], code[1], code[2], code[3]]));
        }
        let step = length.next_multiple_of(4).max(HEADER);
        datagram = datagram.get(step..).unwrap_or_default();
    }
    codes
}
