//! Bytes and messages: what a query asks, and an answer that fits where it has to go.

use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, ResponseCode},
    serialize::binary::{BinEncodable, BinEncoder},
};

use crate::answer::Reply;

/// The least that every client takes over UDP (RFC 1035).
pub const UDP_MIN: u16 = 512;
/// The most that we send over UDP, so that no packet is fragmented (DNS flag day 2020).
pub const UDP_MAX: u16 = 1232;
/// A DNS header (RFC 1035, 4.1.1).
pub const HEADER: usize = 12;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transport {
    Udp,
    Tcp,
}

/// What came in, as far as it can be understood.
#[derive(Debug)]
pub enum Incoming {
    Query(Box<Message>),
    /// Not worth an answer: no header, or itself a response.
    Ignore,
    /// Understood only as far as this error answer.
    Error(Vec<u8>),
}

/// Decodes a query and checks what holds for all of them.
pub fn decode(bytes: &[u8]) -> Incoming {
    let Ok(message) = Message::from_vec(bytes) else {
        return refuse(bytes, ResponseCode::FormErr).map_or(Incoming::Ignore, Incoming::Error);
    };
    // A response is never answered: two servers would answer each other for ever.
    if message.message_type == MessageType::Response {
        return Incoming::Ignore;
    }
    let code = if message.op_code != OpCode::Query {
        ResponseCode::NotImp
    } else if message.queries.len() != 1 {
        ResponseCode::FormErr
    } else if message.edns.as_ref().is_some_and(|edns| edns.version() > 0) {
        ResponseCode::BADVERS
    } else {
        return Incoming::Query(Box::new(message));
    };
    let reply = Reply { code, answers: vec![], additionals: vec![], authorities: vec![] };
    Incoming::Error(encode(&message, reply, Transport::Udp))
}

/// An error answer to bytes that may not even decode: their header, turned round, and nothing else.
/// `None` if they have none, or are a response.
pub fn refuse(bytes: &[u8], code: ResponseCode) -> Option<Vec<u8>> {
    let mut header: [u8; HEADER] = [0; HEADER];
    header[..4].copy_from_slice(bytes.get(..HEADER)?.get(..4)?);
    if header[2] & 0x80 != 0 {
        return None;
    }
    // QR set; opcode and RD as they came.
    header[2] = 0x80 | (header[2] & 0x79);
    header[3] = code.low();
    Some(header.to_vec())
}

/// How many bytes the client takes.
pub fn limit(query: &Message, transport: Transport) -> u16 {
    match (transport, &query.edns) {
        (Transport::Tcp, _) => u16::MAX,
        (Transport::Udp, None) => UDP_MIN,
        (Transport::Udp, Some(edns)) => edns.max_payload().clamp(UDP_MIN, UDP_MAX),
    }
}

/// Encodes the answer to `query`. What doesn't fit goes in this order: the additional records,
/// then all records with TC set, upon which the client asks again over TCP.
pub fn encode(query: &Message, reply: Reply, transport: Transport) -> Vec<u8> {
    let mut message = Message::new(query.id, MessageType::Response, query.op_code);
    let metadata = &mut message.metadata;
    metadata.authoritative = reply.code != ResponseCode::ServFail;
    metadata.recursion_desired = query.recursion_desired;
    metadata.recursion_available = true;
    metadata.checking_disabled = query.checking_disabled;
    metadata.response_code = reply.code;
    message.queries.clone_from(&query.queries);
    message.answers = reply.answers;
    message.authorities = reply.authorities;
    message.additionals = reply.additionals;
    if query.edns.is_some() {
        let mut edns = Edns::new();
        edns.set_max_payload(UDP_MAX);
        message.edns = Some(edns);
    }
    let limit = limit(query, transport);
    if let Some(bytes) = fitting(&message, limit) {
        return bytes;
    }
    message.additionals.clear();
    if let Some(bytes) = fitting(&message, limit) {
        return bytes;
    }
    fitting(&message.truncate(), limit).unwrap_or_else(|| failed(query, ResponseCode::ServFail))
}

/// An error answer that holds nothing but the question.
pub fn failed(query: &Message, code: ResponseCode) -> Vec<u8> {
    let mut message = Message::new(query.id, MessageType::Response, query.op_code);
    message.metadata.recursion_desired = query.recursion_desired;
    message.metadata.recursion_available = true;
    message.metadata.response_code = code;
    message.queries.clone_from(&query.queries);
    message.to_vec().unwrap_or_default()
}

/// The message's bytes, if all of it fits.
fn fitting(message: &Message, limit: u16) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(usize::from(UDP_MIN));
    let mut encoder = BinEncoder::new(&mut bytes);
    encoder.set_max_size(limit);
    message.emit(&mut encoder).ok()?;
    let truncated = bytes.get(2)? & 0x02 != 0;
    (!truncated || message.truncation).then_some(bytes)
}

#[cfg(test)]
mod tests;
