//! The nfnetlink messages that the masquerade rule needs, as bytes: tables, chains, rules.
//!
//! Source: linux/netfilter/nfnetlink.h and nf_tables.h. All attribute values are big-endian unless
//! said otherwise; message headers are in host order.

use std::net::IpAddr;

use ipnetwork::IpNetwork;

const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_CREATE: u16 = 0x400;
const NLM_F_APPEND: u16 = 0x800;
const NLM_F_DUMP: u16 = 0x300;
const NFNL_MSG_BATCH_BEGIN: u16 = 0x10;
const NFNL_MSG_BATCH_END: u16 = 0x11;
const NFNL_SUBSYS_NFTABLES: u16 = 10;
const NFT_MSG_NEWTABLE: u16 = 0;
const NFT_MSG_DELTABLE: u16 = 2;
const NFT_MSG_NEWCHAIN: u16 = 3;
const NFT_MSG_GETCHAIN: u16 = 4;
const NFT_MSG_NEWRULE: u16 = 6;
const NFT_MSG_GETRULE: u16 = 7;
const NFT_MSG_DELRULE: u16 = 8;
const NLA_F_NESTED: u16 = 0x8000;

const NFTA_TABLE_NAME: u16 = 1;
pub(super) const NFTA_CHAIN_TABLE: u16 = 1;
pub(super) const NFTA_CHAIN_NAME: u16 = 3;
pub(super) const NFTA_CHAIN_HOOK: u16 = 4;
pub(super) const NFTA_CHAIN_POLICY: u16 = 5;
const NFTA_CHAIN_TYPE: u16 = 7;
pub(super) const NFTA_HOOK_HOOKNUM: u16 = 1;
const NFTA_HOOK_PRIORITY: u16 = 2;
const NFTA_RULE_TABLE: u16 = 1;
const NFTA_RULE_CHAIN: u16 = 2;
pub(super) const NFTA_RULE_HANDLE: u16 = 3;
const NFTA_RULE_EXPRESSIONS: u16 = 4;
pub(super) const NFTA_RULE_USERDATA: u16 = 7;
const NFTA_LIST_ELEM: u16 = 1;
const NFTA_EXPR_NAME: u16 = 1;
const NFTA_EXPR_DATA: u16 = 2;
const NFTA_META_DREG: u16 = 1;
const NFTA_META_KEY: u16 = 2;
const NFT_META_NFPROTO: u32 = 15;
const NFTA_PAYLOAD_DREG: u16 = 1;
const NFTA_PAYLOAD_BASE: u16 = 2;
const NFTA_PAYLOAD_OFFSET: u16 = 3;
const NFTA_PAYLOAD_LEN: u16 = 4;
const NFTA_BITWISE_SREG: u16 = 1;
const NFTA_BITWISE_DREG: u16 = 2;
const NFTA_BITWISE_LEN: u16 = 3;
const NFTA_BITWISE_MASK: u16 = 4;
const NFTA_BITWISE_XOR: u16 = 5;
const NFTA_CMP_SREG: u16 = 1;
const NFTA_CMP_OP: u16 = 2;
const NFTA_CMP_DATA: u16 = 3;
const NFTA_IMMEDIATE_DREG: u16 = 1;
const NFTA_IMMEDIATE_DATA: u16 = 2;
const NFTA_DATA_VALUE: u16 = 1;
const NFTA_DATA_VERDICT: u16 = 2;
const NFTA_VERDICT_CODE: u16 = 1;
const NFT_REG_VERDICT: u32 = 0;
const NFT_REG_1: u32 = 1;
const NFT_PAYLOAD_NETWORK_HEADER: u32 = 1;
const NFT_CMP_EQ: u32 = 0;
const NFT_RETURN: i32 = -5;
pub(super) const NF_DROP: u32 = 0;
const NF_ACCEPT: u32 = 1;

/// NF_INET_FORWARD.
pub(super) const HOOK_FORWARD: u32 = 2;
/// NF_INET_POST_ROUTING.
pub(super) const HOOK_POSTROUTING: u32 = 4;
/// NF_IP_PRI_NAT_SRC.
pub(super) const PRIORITY_SRCNAT: i32 = 100;

/// An address family of nftables: one table each. Inet holds both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    Inet,
    Ip,
    Ip6,
}

impl Family {
    fn number(self) -> u8 {
        match self {
            Self::Inet => 1,
            Self::Ip => 2,
            Self::Ip6 => 10,
        }
    }

    pub(super) fn from_number(number: u8) -> Option<Self> {
        [Self::Inet, Self::Ip, Self::Ip6].into_iter().find(|family| family.number() == number)
    }
}

/// Which of a packet's addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Field {
    Source,
    Destination,
}

/// A batch of messages: all of it takes effect, or nothing.
#[derive(Debug, Default)]
pub(super) struct Batch {
    bytes: Vec<u8>,
    sequence: u32,
}

/// A rule's expressions.
#[derive(Debug)]
pub(super) struct Rule {
    family: Family,
    expressions: Vec<u8>,
}

impl Batch {
    pub(super) fn new() -> Self {
        let mut batch = Self::default();
        batch.boundary(NFNL_MSG_BATCH_BEGIN);
        batch
    }

    pub(super) fn add_table(&mut self, family: Family, table: &str) {
        let body = text(NFTA_TABLE_NAME, table);
        self.message(NFT_MSG_NEWTABLE, NLM_F_CREATE, family, &body);
    }

    pub(super) fn delete_table(&mut self, family: Family, table: &str) {
        let body = text(NFTA_TABLE_NAME, table);
        self.message(NFT_MSG_DELTABLE, 0, family, &body);
    }

    /// A base chain of type nat with policy accept.
    pub(super) fn add_nat_chain(
        &mut self,
        family: Family,
        table: &str,
        chain: &str,
        hook: u32,
        priority: i32,
    ) {
        let place = [
            number(NFTA_HOOK_HOOKNUM, hook),
            attribute(NFTA_HOOK_PRIORITY, &priority.to_be_bytes()),
        ];
        let body = [
            text(NFTA_CHAIN_TABLE, table),
            text(NFTA_CHAIN_NAME, chain),
            nested(NFTA_CHAIN_HOOK, &place.concat()),
            number(NFTA_CHAIN_POLICY, NF_ACCEPT),
            text(NFTA_CHAIN_TYPE, "nat"),
        ];
        self.message(NFT_MSG_NEWCHAIN, NLM_F_CREATE, family, &body.concat());
    }

    pub(super) fn add_rule(&mut self, table: &str, chain: &str, rule: &Rule) {
        let body = [
            text(NFTA_RULE_TABLE, table),
            text(NFTA_RULE_CHAIN, chain),
            nested(NFTA_RULE_EXPRESSIONS, &rule.expressions),
        ];
        self.message(NFT_MSG_NEWRULE, NLM_F_CREATE | NLM_F_APPEND, rule.family, &body.concat());
    }

    /// A rule at the head of a chain, marked so that it is found again.
    pub(super) fn insert_rule(&mut self, table: &str, chain: &str, rule: &Rule, mark: &[u8]) {
        let body = [
            text(NFTA_RULE_TABLE, table),
            text(NFTA_RULE_CHAIN, chain),
            nested(NFTA_RULE_EXPRESSIONS, &rule.expressions),
            attribute(NFTA_RULE_USERDATA, mark),
        ];
        self.message(NFT_MSG_NEWRULE, NLM_F_CREATE, rule.family, &body.concat());
    }

    pub(super) fn delete_rule(&mut self, family: Family, table: &str, chain: &str, handle: u64) {
        let body = [
            text(NFTA_RULE_TABLE, table),
            text(NFTA_RULE_CHAIN, chain),
            attribute(NFTA_RULE_HANDLE, &handle.to_be_bytes()),
        ];
        self.message(NFT_MSG_DELRULE, 0, family, &body.concat());
    }

    /// The bytes to send and the number of acknowledgements that follow.
    pub(super) fn finish(mut self) -> (Vec<u8>, u32) {
        let messages = self.sequence - 1;
        self.boundary(NFNL_MSG_BATCH_END);
        (self.bytes, messages)
    }

    fn message(&mut self, kind: u16, flags: u16, family: Family, body: &[u8]) {
        let kind = NFNL_SUBSYS_NFTABLES << 8 | kind;
        self.push(kind, NLM_F_REQUEST | NLM_F_ACK | flags, family.number(), 0, body);
    }

    fn boundary(&mut self, kind: u16) {
        self.push(kind, NLM_F_REQUEST, 0, NFNL_SUBSYS_NFTABLES, &[]);
    }

    fn push(&mut self, kind: u16, flags: u16, family: u8, resource: u16, body: &[u8]) {
        self.bytes.extend(header(kind, flags, self.sequence, family, resource, body.len()));
        self.bytes.extend(body);
        self.sequence += 1;
    }
}

/// A request for all chains of all families.
pub(super) fn list_chains() -> Vec<u8> {
    let kind = NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETCHAIN;
    header(kind, NLM_F_REQUEST | NLM_F_DUMP, 0, 0, 0, 0)
}

/// A request for all rules of a chain.
pub(super) fn list_rules(family: Family, table: &str, chain: &str) -> Vec<u8> {
    let kind = NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETRULE;
    let body = [text(NFTA_RULE_TABLE, table), text(NFTA_RULE_CHAIN, chain)].concat();
    let flags = NLM_F_REQUEST | NLM_F_DUMP;
    let mut bytes = header(kind, flags, 0, family.number(), 0, body.len());
    bytes.extend(body);
    bytes
}

fn header(kind: u16, flags: u16, sequence: u32, family: u8, resource: u16, body: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(20 + body);
    bytes.extend(((20 + body) as u32).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    bytes.extend(0u32.to_ne_bytes());
    bytes.extend([family, 0]);
    bytes.extend(resource.to_be_bytes());
    bytes
}

impl Rule {
    pub(super) fn new(family: Family) -> Self {
        Self { family, expressions: Vec::new() }
    }

    /// Goes on only for packets whose address lies in `range`, which is of the rule's family.
    pub(super) fn matching(mut self, field: Field, range: &IpNetwork) -> Self {
        // Offset of each address in the header, and an address's length.
        let (source, destination, length) = if range.is_ipv4() { (12, 16, 4) } else { (8, 24, 16) };
        if self.family == Family::Inet {
            let proto = if range.is_ipv4() { Family::Ip.number() } else { Family::Ip6.number() };
            let load = [number(NFTA_META_DREG, NFT_REG_1), number(NFTA_META_KEY, NFT_META_NFPROTO)];
            self.push("meta", &load.concat());
            self.push("cmp", &equal(&[proto]));
        }
        let offset = if field == Field::Source { source } else { destination };
        let load = [
            number(NFTA_PAYLOAD_DREG, NFT_REG_1),
            number(NFTA_PAYLOAD_BASE, NFT_PAYLOAD_NETWORK_HEADER),
            number(NFTA_PAYLOAD_OFFSET, offset),
            number(NFTA_PAYLOAD_LEN, length as u32),
        ];
        self.push("payload", &load.concat());
        let mask = [
            number(NFTA_BITWISE_SREG, NFT_REG_1),
            number(NFTA_BITWISE_DREG, NFT_REG_1),
            number(NFTA_BITWISE_LEN, length as u32),
            nested(NFTA_BITWISE_MASK, &attribute(NFTA_DATA_VALUE, &octets(range.mask()))),
            nested(NFTA_BITWISE_XOR, &attribute(NFTA_DATA_VALUE, &vec![0; length])),
        ];
        self.push("bitwise", &mask.concat());
        self.push("cmp", &equal(&octets(range.network())));
        self
    }

    pub(super) fn masquerade(mut self) -> Self {
        self.push("masq", &[]);
        self
    }

    pub(super) fn leave_chain(self) -> Self {
        self.verdict(NFT_RETURN)
    }

    pub(super) fn accept(self) -> Self {
        self.verdict(NF_ACCEPT as i32)
    }

    fn verdict(mut self, code: i32) -> Self {
        let code = attribute(NFTA_VERDICT_CODE, &code.to_be_bytes());
        let verdict = nested(NFTA_DATA_VERDICT, &code);
        let body =
            [number(NFTA_IMMEDIATE_DREG, NFT_REG_VERDICT), nested(NFTA_IMMEDIATE_DATA, &verdict)];
        self.push("immediate", &body.concat());
        self
    }

    fn push(&mut self, name: &str, data: &[u8]) {
        let body = [text(NFTA_EXPR_NAME, name), nested(NFTA_EXPR_DATA, data)];
        self.expressions.extend(nested(NFTA_LIST_ELEM, &body.concat()));
    }
}

/// A comparison of register 1.
fn equal(value: &[u8]) -> Vec<u8> {
    let body = [
        number(NFTA_CMP_SREG, NFT_REG_1),
        number(NFTA_CMP_OP, NFT_CMP_EQ),
        nested(NFTA_CMP_DATA, &attribute(NFTA_DATA_VALUE, value)),
    ];
    body.concat()
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

fn number(kind: u16, value: u32) -> Vec<u8> {
    attribute(kind, &value.to_be_bytes())
}

fn text(kind: u16, value: &str) -> Vec<u8> {
    attribute(kind, &[value.as_bytes(), &[0]].concat())
}

fn nested(kind: u16, value: &[u8]) -> Vec<u8> {
    attribute(kind | NLA_F_NESTED, value)
}

/// Length and type in host order, the value padded to four bytes.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = 4 + value.len();
    let mut bytes = Vec::with_capacity(length.next_multiple_of(4));
    bytes.extend((length as u16).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(length.next_multiple_of(4), 0);
    bytes
}

/// The messages of a datagram: kind, family, and the attributes as bytes.
pub(super) fn messages(mut datagram: &[u8]) -> Vec<(u16, u8, &[u8])> {
    let mut found = Vec::new();
    while let Some(length) = word(datagram) {
        let length = length as usize;
        let Some(message) = datagram.get(..length).filter(|m| m.len() >= 20) else { break };
        found.push((u16::from_ne_bytes([message[4], message[5]]), message[16], &message[20..]));
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

/// The value of the first attribute of this kind.
pub(super) fn find(mut attributes: &[u8], kind: u16) -> Option<&[u8]> {
    while let Some(&[l0, l1, k0, k1]) = attributes.first_chunk() {
        let length = usize::from(u16::from_ne_bytes([l0, l1]));
        let value = attributes.get(4..length)?;
        if u16::from_ne_bytes([k0, k1]) & !NLA_F_NESTED == kind {
            return Some(value);
        }
        attributes = attributes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    None
}

fn word(bytes: &[u8]) -> Option<u32> {
    bytes.first_chunk().map(|chunk| u32::from_ne_bytes(*chunk))
}
