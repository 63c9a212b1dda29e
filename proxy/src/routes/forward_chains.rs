//! Other programs' nftables chains that drop what is forwarded (Docker sets iptables' FORWARD to
//! DROP). A verdict in a table of ours can't overrule theirs, so rules that accept the pods' packets
//! go to the head of each such chain, marked as ours.
//!
//! A chain whose *rules* drop or reject is a firewall that somebody meant: it is left alone.

use ipnetwork::IpNetwork;

use super::nft::{self, NftError};
use super::nft_message::{
    Batch, Family, Field, HOOK_FORWARD, NF_DROP, NFTA_CHAIN_HOOK, NFTA_CHAIN_NAME,
    NFTA_CHAIN_POLICY, NFTA_CHAIN_TABLE, NFTA_HOOK_HOOKNUM, NFTA_RULE_HANDLE, NFTA_RULE_USERDATA,
    Rule, find, list_chains, list_rules, messages,
};

/// The comment of our rules, as nft stores one: type, length, text.
const COMMENT: &str = "bowline: pods";

/// A chain on the forward hook.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Chain {
    family: Family,
    table: String,
    name: String,
    drops: bool,
}

/// Makes every chain that drops what is forwarded accept these pods' packets. Says what it does.
pub(super) fn open_for(own: &[IpNetwork]) -> Result<(), NftError> {
    for chain in forward_chains()?.iter().filter(|chain| chain.drops) {
        let ranges: Vec<&IpNetwork> = own.iter().filter(|range| chain.takes(range)).collect();
        let present = our_rules(chain)?;
        if ranges.is_empty() || present.len() == 2 * ranges.len() {
            continue;
        }
        let mut batch = Batch::new();
        for handle in present {
            batch.delete_rule(chain.family, &chain.table, &chain.name, handle);
        }
        for range in &ranges {
            for field in [Field::Source, Field::Destination] {
                let rule = Rule::new(chain.family).matching(field, range).accept();
                batch.insert_rule(&chain.table, &chain.name, &rule, &mark());
            }
        }
        nft::commit(batch)?;
        let (table, chain) = (&chain.table, &chain.name);
        tracing::warn!(%table, %chain, ?ranges, "it drops what is forwarded; it now accepts pods");
    }
    Ok(())
}

/// Takes our rules out of all chains on the forward hook.
pub(super) fn close() -> Result<(), NftError> {
    for chain in forward_chains()? {
        let handles = our_rules(&chain)?;
        if handles.is_empty() {
            continue;
        }
        let mut batch = Batch::new();
        for handle in handles {
            batch.delete_rule(chain.family, &chain.table, &chain.name, handle);
        }
        nft::commit(batch)?;
    }
    Ok(())
}

impl Chain {
    fn takes(&self, range: &IpNetwork) -> bool {
        match self.family {
            Family::Inet => true,
            Family::Ip => range.is_ipv4(),
            Family::Ip6 => range.is_ipv6(),
        }
    }
}

fn forward_chains() -> Result<Vec<Chain>, NftError> {
    let answer = nft::query(&list_chains())?;
    let all = answer.iter().flat_map(|datagram| messages(datagram));
    Ok(all.filter_map(|(_, family, attributes)| parse_chain(family, attributes)).collect())
}

fn parse_chain(family: u8, attributes: &[u8]) -> Option<Chain> {
    let number = |value: &[u8]| value.first_chunk().map(|bytes| u32::from_be_bytes(*bytes));
    let text = |value: &[u8]| String::from_utf8_lossy(value).trim_end_matches('\0').to_owned();
    let hook = find(find(attributes, NFTA_CHAIN_HOOK)?, NFTA_HOOK_HOOKNUM).and_then(number)?;
    if hook != HOOK_FORWARD {
        return None;
    }
    Some(Chain {
        family: Family::from_number(family)?,
        table: text(find(attributes, NFTA_CHAIN_TABLE)?),
        name: text(find(attributes, NFTA_CHAIN_NAME)?),
        drops: find(attributes, NFTA_CHAIN_POLICY).and_then(number) == Some(NF_DROP),
    })
}

/// The handles of our rules in a chain.
fn our_rules(chain: &Chain) -> Result<Vec<u64>, NftError> {
    let answer = nft::query(&list_rules(chain.family, &chain.table, &chain.name))?;
    let ours = |attributes: &[u8]| {
        let marked = find(attributes, NFTA_RULE_USERDATA) == Some(mark().as_slice());
        let handle = find(attributes, NFTA_RULE_HANDLE).filter(|_| marked)?;
        handle.first_chunk().map(|bytes| u64::from_be_bytes(*bytes))
    };
    let all = answer.iter().flat_map(|datagram| messages(datagram));
    Ok(all.filter_map(|(_, _, attributes)| ours(attributes)).collect())
}

/// NFTNL_UDATA_RULE_COMMENT is type 0; the text ends with a zero.
fn mark() -> Vec<u8> {
    let length = u8::try_from(COMMENT.len() + 1).unwrap_or(u8::MAX);
    [&[0, length], COMMENT.as_bytes(), &[0]].concat()
}
