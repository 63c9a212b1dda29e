//! Queries that were taken from the socket but wait for upstream, noted down outside the worker.
//!
//! The file lives in memory and belongs to the supervisor. A worker that is killed leaves its notes
//! behind, and the next one takes these queries up: their clients see a slow answer, not a lost
//! one. Answers may be sent twice, which DNS clients ignore.

use std::{
    cell::RefCell,
    fs::File,
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    os::unix::fs::FileExt,
    rc::Rc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// Queries noted at one time; more are served without a note.
const SLOTS: u64 = 2048;
/// One slot: the header and the query. Longer queries (EDNS options, mostly) go without a note.
const SLOT: usize = 640;
/// Length of the query (2), port (2), address as IPv6 (16), scope (4), milliseconds (8).
const HEAD: usize = 32;
/// Clients have given up by then.
const TOO_OLD: Duration = Duration::from_secs(5);

pub struct Journal {
    file: File,
    free: RefCell<Vec<u64>>,
}

/// A query that a former worker left unanswered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unanswered {
    pub client: SocketAddr,
    pub query: Vec<u8>,
}

/// Strikes its note out when dropped: the query is answered.
pub struct Note {
    journal: Rc<Journal>,
    slot: u64,
}

/// What a former worker left, each with the note that keeps it for the next one.
pub type Left = Vec<(Unanswered, Note)>;

impl Journal {
    /// Takes over the file of a former worker, or an empty one; returns what that one left. The notes
    /// stay until they are dropped, for this worker may be killed, too.
    pub fn take_over(file: File) -> io::Result<(Rc<Self>, Left)> {
        file.set_len(SLOTS * SLOT as u64)?;
        let (mut found, mut free) = (vec![], vec![]);
        let mut bytes = [0; SLOT];
        for slot in 0..SLOTS {
            let length = file.read_at(&mut bytes, slot * SLOT as u64)?;
            match read(&bytes[..length], now()) {
                Some(unanswered) => found.push((unanswered, slot)),
                None => free.push(slot),
            }
        }
        let journal = Rc::new(Journal { file, free: RefCell::new(free) });
        let note = |slot| Note { journal: Rc::clone(&journal), slot };
        let left = found.into_iter().map(|(unanswered, slot)| (unanswered, note(slot))).collect();
        Ok((journal, left))
    }

    /// Notes a query down; `None` if it is too long, no slot is free or the file fails.
    pub fn note(self: &Rc<Self>, client: SocketAddr, query: &[u8]) -> Option<Note> {
        let bytes = write(client, query, now())?;
        let slot = self.free.borrow_mut().pop()?;
        let note = Note { journal: Rc::clone(self), slot };
        // The length comes last: a note that is cut short by a kill is none.
        let at = slot * SLOT as u64;
        self.file.write_all_at(&bytes[2..], at + 2).ok()?;
        self.file.write_all_at(&bytes[..2], at).ok()?;
        Some(note)
    }
}

impl Drop for Note {
    fn drop(&mut self) {
        // A note that can't be struck out is answered twice, which does no harm.
        let _ = self.journal.file.write_all_at(&[0, 0], self.slot * SLOT as u64);
        self.journal.free.borrow_mut().push(self.slot);
    }
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn write(client: SocketAddr, query: &[u8], now: Duration) -> Option<Vec<u8>> {
    if query.len() > SLOT - HEAD {
        return None;
    }
    let (address, scope) = match client {
        SocketAddr::V4(v4) => (v4.ip().to_ipv6_mapped(), 0),
        SocketAddr::V6(v6) => (*v6.ip(), v6.scope_id()),
    };
    let mut bytes = Vec::with_capacity(HEAD + query.len());
    bytes.extend(u16::try_from(query.len()).ok()?.to_be_bytes());
    bytes.extend(client.port().to_be_bytes());
    bytes.extend(address.octets());
    bytes.extend(scope.to_be_bytes());
    bytes.extend(u64::try_from(now.as_millis()).ok()?.to_be_bytes());
    bytes.extend(query);
    Some(bytes)
}

fn read(bytes: &[u8], now: Duration) -> Option<Unanswered> {
    let (length, rest) = bytes.split_first_chunk()?;
    let (port, rest) = rest.split_first_chunk()?;
    let (address, rest) = rest.split_first_chunk::<16>()?;
    let (scope, rest) = rest.split_first_chunk()?;
    let (at, rest) = rest.split_first_chunk()?;
    let length = usize::from(u16::from_be_bytes(*length));
    let at = Duration::from_millis(u64::from_be_bytes(*at));
    if length == 0 || now.saturating_sub(at) > TOO_OLD {
        return None;
    }
    let address = Ipv6Addr::from(*address);
    let port = u16::from_be_bytes(*port);
    let client = match address.to_ipv4_mapped() {
        // On a dual-stack socket a mapped address is what has to be sent to; on an IPv4 one only
        // a plain one works. The sender knows its socket.
        Some(v4) => SocketAddr::new(IpAddr::V4(v4), port),
        None => std::net::SocketAddrV6::new(address, port, 0, u32::from_be_bytes(*scope)).into(),
    };
    Some(Unanswered { client, query: rest.get(..length)?.to_vec() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> File {
        tempfile::tempfile().expect("a temporary file")
    }

    fn left_in(file: &File) -> Vec<Unanswered> {
        let (_, left) = Journal::take_over(file.try_clone().expect("duplicate")).expect("readable");
        // kill -9: nothing is dropped.
        left.into_iter()
            .map(|(unanswered, note)| {
                std::mem::forget(note);
                unanswered
            })
            .collect()
    }

    #[test]
    fn what_a_killed_worker_noted_is_found_and_what_it_answered_is_not() {
        let file = file();
        let (journal, left) =
            Journal::take_over(file.try_clone().expect("duplicate")).expect("empty file");
        assert!(left.is_empty());
        let v4: SocketAddr = "10.0.0.1:1234".parse().expect("address");
        let v6: SocketAddr = "[fd00::1%7]:99".parse().expect("address");
        let answered = journal.note(v4, b"answered").expect("room");
        let waiting = journal.note(v4, b"waiting").expect("room");
        let other = journal.note(v6, b"other").expect("room");
        drop(answered);
        std::mem::forget((waiting, other));
        let mut expected = [
            Unanswered { client: v4, query: b"waiting".to_vec() },
            Unanswered { client: v6, query: b"other".to_vec() },
        ];
        expected.sort_by_key(|unanswered| unanswered.query.clone());
        for life in 1..=3 {
            let mut left = left_in(&file);
            left.sort_by_key(|unanswered| unanswered.query.clone());
            assert_eq!(left, expected, "however often workers are killed: {life}");
        }
        let (_, left) = Journal::take_over(file.try_clone().expect("duplicate")).expect("readable");
        drop(left);
        assert_eq!(left_in(&file), [], "what is answered at last is not taken up again");
    }

    #[test]
    fn a_full_journal_takes_no_more_until_one_is_answered() {
        let (journal, _) = Journal::take_over(file()).expect("empty file");
        let client: SocketAddr = "10.0.0.1:1234".parse().expect("address");
        let mut notes: Vec<Note> =
            (0..SLOTS).map(|_| journal.note(client, b"q").expect("room")).collect();
        assert!(journal.note(client, b"q").is_none());
        notes.pop();
        assert!(journal.note(client, b"q").is_some());
        assert!(journal.note(client, &[0; SLOT]).is_none(), "too long for a slot");
    }

    #[test]
    fn old_notes_are_not_taken_up() {
        let client: SocketAddr = "10.0.0.1:1234".parse().expect("address");
        let at = Duration::from_secs(1000);
        let bytes = write(client, b"q", at).expect("fits");
        assert!(read(&bytes, at + TOO_OLD).is_some());
        assert!(read(&bytes, at + TOO_OLD + Duration::from_millis(1)).is_none());
    }
}
