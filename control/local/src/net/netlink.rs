//! Netlink messages and the socket that carries them (netlink(7)): enough for the links of a
//! cluster and one nftables table, without a program or a library per family.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
};

pub(crate) const REQUEST: u16 = 0x1;
pub(crate) const ACK: u16 = 0x4;
pub(crate) const DUMP: u16 = 0x300;
pub(crate) const EXCLUSIVE: u16 = 0x200;
pub(crate) const CREATE: u16 = 0x400;
pub(crate) const APPEND: u16 = 0x800;

const HEADER: usize = 16;
const ERROR: u16 = 2;
const DONE: u16 = 3;
const NESTED: u16 = 0x8000;

/// Larger than any answer that one receive can bring (the kernel's dumps use at most 32 KB).
const RECEIVE_BYTES: usize = 64 * 1024;

/// Kernel answers to one request before we say that something is wrong: far more links, addresses
/// and tables than a machine has.
const MAX_ANSWERS: usize = 1 << 20;

/// A message in the making: the header, then the family's fixed part, then attributes.
#[derive(Debug, Clone)]
pub(crate) struct Message(Vec<u8>);

impl Message {
    /// `fixed` is the family's own header (`ifinfomsg`, `nfgenmsg`, …), a multiple of 4 bytes.
    pub(crate) fn new(kind: u16, flags: u16, fixed: &[u8]) -> Self {
        debug_assert!(fixed.len().is_multiple_of(4), "fixed parts are aligned");
        let mut bytes = Vec::with_capacity(128);
        bytes.extend([0; 4]);
        bytes.extend(kind.to_ne_bytes());
        bytes.extend((flags | REQUEST).to_ne_bytes());
        bytes.extend([0; 8]);
        bytes.extend(fixed);
        Self(bytes)
    }

    pub(crate) fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        let length = u16::try_from(4 + value.len()).expect("attributes of ours are short");
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.pad();
        self
    }

    pub(crate) fn number(self, kind: u16, value: u32) -> Self {
        self.attribute(kind, &value.to_ne_bytes())
    }

    /// nfnetlink's numbers are in network order.
    pub(crate) fn number_be(self, kind: u16, value: u32) -> Self {
        self.attribute(kind, &value.to_be_bytes())
    }

    /// A string with its terminating NUL.
    pub(crate) fn text(self, kind: u16, value: &str) -> Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.attribute(kind, &bytes)
    }

    /// An attribute that holds attributes.
    pub(crate) fn nest(mut self, kind: u16, inner: impl FnOnce(Self) -> Self) -> Self {
        let start = self.0.len();
        self.0.extend([0; 2]);
        self.0.extend((kind | NESTED).to_ne_bytes());
        let mut this = inner(self);
        let length = u16::try_from(this.0.len() - start).expect("attributes of ours are short");
        this.0[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        this
    }

    /// Bytes as they are, where a family puts a header inside an attribute.
    pub(crate) fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self.pad();
        self
    }

    fn pad(&mut self) {
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    fn finish(mut self, sequence: u32) -> Vec<u8> {
        let length = u32::try_from(self.0.len()).expect("messages of ours are short");
        self.0[0..4].copy_from_slice(&length.to_ne_bytes());
        self.0[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.0
    }
}

/// A netlink socket; it stays in the network namespace in which it was opened.
#[derive(Debug)]
pub(crate) struct Socket {
    fd: OwnedFd,
    sequence: u32,
}

impl Socket {
    pub(crate) fn open(protocol: SockProtocol) -> io::Result<Self> {
        let fd =
            socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, Some(protocol))?;
        Ok(Self { fd, sequence: 0 })
    }

    /// Asks for an act and waits for its acknowledgement.
    pub(crate) fn act(&mut self, message: Message) -> io::Result<()> {
        self.sequence += 1;
        self.send(&message.finish(self.sequence))?;
        self.answers().map(drop)
    }

    /// Asks for data: the bodies (after the netlink header) of all answers.
    pub(crate) fn query(&mut self, message: Message) -> io::Result<Vec<Vec<u8>>> {
        self.sequence += 1;
        self.send(&message.finish(self.sequence))?;
        self.answers()
    }

    /// Sends messages as one (nfnetlink's batches). The last of them asks for acknowledgement.
    pub(crate) fn batch(&mut self, messages: Vec<Message>) -> io::Result<()> {
        let mut bytes = Vec::new();
        for message in messages {
            self.sequence += 1;
            bytes.extend(message.finish(self.sequence));
        }
        self.send(&bytes)?;
        self.answers().map(drop)
    }

    fn send(&self, bytes: &[u8]) -> io::Result<()> {
        let kernel = NetlinkAddr::new(0, 0);
        sendto(self.fd.as_raw_fd(), bytes, &kernel, MsgFlags::empty())?;
        Ok(())
    }

    fn answers(&self) -> io::Result<Vec<Vec<u8>>> {
        let mut buffer = vec![0; RECEIVE_BYTES];
        let mut bodies = Vec::new();
        while bodies.len() < MAX_ANSWERS {
            let length = recv(self.fd.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
            let mut rest = &buffer[..length];
            while let Some((kind, body, next)) = split(rest) {
                rest = next;
                match kind {
                    ERROR => return result_of(body).map(|()| bodies),
                    DONE => return Ok(bodies),
                    _ => bodies.push(body.to_vec()),
                }
            }
        }
        Err(io::Error::other("netlink answers without end"))
    }
}

fn split(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = usize::try_from(u32_at(bytes, 0)?).ok()?;
    let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
    let body = bytes.get(HEADER..length)?;
    let next = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    Some((kind, body, next))
}

fn result_of(body: &[u8]) -> io::Result<()> {
    match u32_at(body, 0).map(u32::cast_signed) {
        Some(0) => Ok(()),
        Some(code) => Err(Errno::from_raw(-code).into()),
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// The attributes of a body after its fixed part; what is cut off is left out.
pub(crate) fn attributes(mut bytes: &[u8]) -> Vec<(u16, &[u8])> {
    let mut found = Vec::new();
    while let Some(header) = bytes.get(..4) {
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let kind = u16::from_ne_bytes([header[2], header[3]]) & !NESTED;
        let Some(value) = bytes.get(4..length) else { break };
        found.push((kind, value));
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

pub(crate) fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(offset..offset + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_attributes_know_their_length_and_are_aligned() {
        let bytes = Message::new(16, ACK, &[0; 16])
            .text(3, "eth0")
            .nest(18, |link| link.text(1, "veth"))
            .finish(7);
        assert_eq!(bytes.len() % 4, 0);
        assert_eq!(u32_at(&bytes, 0), Some(u32::try_from(bytes.len()).expect("short")));
        let nest = &bytes[HEADER + 16 + 12..];
        assert_eq!(u16::from_ne_bytes([nest[0], nest[1]]), 4 + 12);
    }

    #[test]
    fn attributes_are_read_as_they_are_written() {
        let bytes = Message::new(0, 0, &[]).text(1, "ab").nest(2, |m| m.number(3, 7)).finish(1);
        let outer = attributes(&bytes[HEADER..]);
        assert_eq!(outer[0], (1, b"ab\0".as_slice()));
        assert_eq!(attributes(outer[1].1), [(3, 7u32.to_ne_bytes().as_slice())]);
        assert!(attributes(&bytes[HEADER..HEADER + 6]).is_empty());
        assert!(attributes(&[0; 8]).is_empty(), "a length of 0 must not be an endless loop");
    }

    proptest::proptest! {
        /// What the kernel of another version sends must not end us.
        #[test]
        fn no_bytes_are_a_panic(bytes: Vec<u8>) {
            let mut rest = bytes.as_slice();
            while let Some((_, body, next)) = split(rest) {
                attributes(body);
                assert!(next.len() < rest.len(), "an endless loop");
                rest = next;
            }
            attributes(&bytes);
            let _ = result_of(&bytes);
        }
    }

    #[test]
    fn cut_off_answers_are_no_panic() {
        for length in 0..HEADER + 4 {
            let mut bytes = vec![0; length];
            if length >= 4 {
                bytes[0] = 200;
            }
            assert!(split(&bytes).is_none());
        }
    }
}
