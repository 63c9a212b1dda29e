//! Names that are not the cluster's: the query goes upstream as it is, and its answer comes back
//! as it is. Only the id changes on the way.

use std::{
    cell::{Cell, RefCell},
    fs::File,
    io::{self, Read},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::{Duration, Instant},
};

use hickory_proto::{
    op::{Message, Query},
    rr::{Name, RecordType},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    time::timeout,
};
use tracing::debug;

use crate::{
    answer::LOOPED,
    cache::{Accept, Cache},
    name::LOOP_CHECK,
    upstream::Upstreams,
    wire::{HEADER, Transport},
};

/// Queries that are upstream at one time. One more is refused: upstream is not answering, and
/// memory is not to pay for it.
pub const IN_FLIGHT_MAX: usize = 2048;

/// One server's time for one answer, and the time for all tries: resolvers of clients give up
/// after 5 s.
const TRY: Duration = Duration::from_millis(1200);
const ALL_TRIES: Duration = Duration::from_millis(4500);
/// Tries at most, over however many servers.
const TRIES_MAX: usize = 4;

const SERVFAIL: u8 = 2;
const NOERROR: u8 = 0;

#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    #[error("no upstream server is configured")]
    NoUpstream,
    #[error("{IN_FLIGHT_MAX} queries are upstream already")]
    Overload,
    #[error("no upstream server answered")]
    Unanswered,
}

pub struct Forwarder {
    upstreams: RefCell<Upstreams>,
    in_flight: Cell<usize>,
    entropy: RefCell<Entropy>,
    cache: RefCell<Cache>,
    pub counts: Counts,
}

/// How the cache did.
#[derive(Default)]
pub struct Counts {
    pub hits: Cell<u64>,
    pub misses: Cell<u64>,
    pub stale: Cell<u64>,
}

fn count(cell: &Cell<u64>) {
    cell.set(cell.get() + 1);
}

impl Forwarder {
    pub fn new(upstreams: Upstreams) -> io::Result<Self> {
        Ok(Forwarder {
            upstreams: RefCell::new(upstreams),
            in_flight: Cell::new(0),
            entropy: RefCell::new(Entropy::open()?),
            cache: RefCell::default(),
            counts: Counts::default(),
        })
    }

    pub fn in_flight(&self) -> usize {
        self.in_flight.get()
    }

    /// The answer to `query`, if it is known already.
    pub fn cached(&self, query: &[u8], transport: Transport) -> Option<Vec<u8>> {
        let answer = self.cache.borrow().get(query, transport, Accept::Fresh, Instant::now());
        count(if answer.is_some() { &self.counts.hits } else { &self.counts.misses });
        answer
    }

    /// Answers in the cache.
    pub fn cached_answers(&self) -> usize {
        self.cache.borrow().len()
    }

    /// The answer to `query` (a whole, valid query with one question). A server that fails is
    /// followed by the next; if all fail, an answer that is past its time is taken. That all of them
    /// say SERVFAIL is an answer, too.
    pub async fn resolve(
        &self,
        query: &[u8],
        transport: Transport,
    ) -> Result<Vec<u8>, ForwardError> {
        if self.in_flight.get() >= IN_FLIGHT_MAX {
            return Err(ForwardError::Overload);
        }
        self.in_flight.set(self.in_flight.get() + 1);
        let _leave = Leave(&self.in_flight);
        let tried = timeout(ALL_TRIES, self.try_all(query, transport)).await;
        let result = tried.unwrap_or(Err(ForwardError::Unanswered));
        let now = Instant::now();
        match &result {
            Ok(answer) if answer[3] & 0x0f != SERVFAIL => {
                self.cache.borrow_mut().put(query, transport, answer, now);
            }
            _ => {
                let stale = self.cache.borrow().get(query, transport, Accept::Stale, now);
                if let Some(answer) = stale {
                    count(&self.counts.stale);
                    return Ok(answer);
                }
            }
        }
        result
    }

    /// Asks each upstream server for the cluster's own loop check, and takes out those through which
    /// the question came back: they forward to this cluster's servers, for ever and ever. Returns
    /// them. (A server of another cluster is a fine upstream.)
    pub async fn remove_loops(&self, cluster_id: &str) -> Vec<SocketAddr> {
        let mut check = Message::query();
        check.metadata.recursion_desired = true;
        let Ok(name) = Name::from_ascii(format!("{cluster_id}.{LOOP_CHECK}.")) else {
            return vec![];
        };
        check.add_query(Query::query(name, RecordType::TXT));
        let mut loops = vec![];
        let servers = self.upstreams.borrow().order(Instant::now());
        for server in servers {
            check.metadata.id = self.entropy.borrow_mut().next_u16();
            let Ok(bytes) = check.to_vec() else { continue };
            let answer = timeout(TRY, over_udp(server, &bytes)).await;
            let looped = matches!(answer, Ok(Ok(bytes)) if has_text(&bytes, LOOPED));
            if looped {
                self.upstreams.borrow_mut().remove(server);
                loops.push(server);
            }
        }
        loops
    }

    async fn try_all(&self, query: &[u8], transport: Transport) -> Result<Vec<u8>, ForwardError> {
        let order = self.upstreams.borrow().order(Instant::now());
        if order.is_empty() {
            return Err(ForwardError::NoUpstream);
        }
        let mut servfail = None;
        for &server in order.iter().cycle().take(TRIES_MAX.max(order.len())) {
            let id = self.entropy.borrow_mut().next_u16();
            let mut asked = query.to_vec();
            asked[..2].copy_from_slice(&id.to_be_bytes());
            let exchanged = async {
                match transport {
                    Transport::Udp => over_udp(server, &asked).await,
                    Transport::Tcp => over_tcp(server, &asked).await,
                }
            };
            match timeout(TRY, exchanged).await {
                Ok(Ok(mut answer)) => {
                    self.upstreams.borrow_mut().answered(server);
                    answer[..2].copy_from_slice(&query[..2]);
                    if answer[3] & 0x0f != SERVFAIL {
                        return Ok(answer);
                    }
                    // Each server's SERVFAIL is heard once, not in every round.
                    if servfail.replace(answer).is_some() || order.len() == 1 {
                        break;
                    }
                }
                failed => {
                    let error = failed.map_or_else(
                        |late| late.to_string(),
                        |r| match r {
                            Ok(_) => String::new(),
                            Err(error) => error.to_string(),
                        },
                    );
                    debug!(%server, %error, "an upstream server failed");
                    self.upstreams.borrow_mut().failed(server, Instant::now());
                }
            }
        }
        servfail.ok_or(ForwardError::Unanswered)
    }
}

fn has_text(answer: &[u8], text: &str) -> bool {
    Message::from_vec(answer)
        .is_ok_and(|answer| answer.answers.iter().any(|record| record.data.to_string() == text))
}

struct Leave<'a>(&'a Cell<usize>);

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

fn unspecified_like(server: SocketAddr) -> SocketAddr {
    let address: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    SocketAddr::new(address, 0)
}

/// A socket, and so a random source port, for each query: with the random id, that is what an
/// attacker off the path has to guess (RFC 5452).
async fn over_udp(server: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let socket = UdpSocket::bind(unspecified_like(server)).await?;
    socket.connect(server).await?;
    socket.send(query).await?;
    let mut buffer = vec![0; usize::from(u16::MAX)];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if answers(&buffer[..length], query) {
            buffer.truncate(length);
            buffer.shrink_to_fit();
            return Ok(buffer);
        }
    }
}

async fn over_tcp(server: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let too_long = |_| io::Error::from(io::ErrorKind::InvalidInput);
    let length = u16::try_from(query.len()).map_err(too_long)?;
    let mut stream = TcpStream::connect(server).await?;
    let mut framed = length.to_be_bytes().to_vec();
    framed.extend_from_slice(query);
    stream.write_all(&framed).await?;
    let length = stream.read_u16().await?;
    let mut answer = vec![0; length.into()];
    stream.read_exact(&mut answer).await?;
    if answers(&answer, query) { Ok(answer) } else { Err(io::ErrorKind::InvalidData.into()) }
}

/// Whether `answer` is one to `query`: the same id and question. (A server that does not even
/// understand the question may leave it out of its error.)
fn answers(answer: &[u8], query: &[u8]) -> bool {
    if answer.len() < HEADER || answer[..2] != query[..2] || answer[2] & 0x80 == 0 {
        return false;
    }
    if answer[4..6] == [0, 0] {
        return answer[3] & 0x0f != NOERROR;
    }
    match question(query) {
        Some(question) => answer
            .get(HEADER..HEADER + question.len())
            .is_some_and(|echo| echo.eq_ignore_ascii_case(question)),
        None => false,
    }
}

/// The bytes of the first question: name, type and class.
fn question(query: &[u8]) -> Option<&[u8]> {
    let mut at = HEADER;
    loop {
        match usize::from(*query.get(at)?) {
            0 => break,
            label @ 1..=63 => at += label + 1,
            _ => return None,
        }
    }
    query.get(HEADER..at + 5)
}

/// Random numbers from the kernel, some at a time.
struct Entropy {
    source: File,
    pool: Vec<u8>,
}

const POOL: usize = 1024;

impl Entropy {
    fn open() -> io::Result<Self> {
        Ok(Entropy { source: File::open("/dev/urandom")?, pool: vec![] })
    }

    fn next_u16(&mut self) -> u16 {
        if self.pool.len() < 2 {
            let mut fresh = vec![0; POOL];
            self.source.read_exact(&mut fresh).expect("/dev/urandom never ends");
            self.pool = fresh;
        }
        let [high, low] = [self.pool.pop(), self.pool.pop()].map(Option::unwrap_or_default);
        u16::from_be_bytes([high, low])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUERY: &[u8] =
        b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x01a\x00\x00\x01\x00\x01";

    fn answer(change: impl Fn(&mut Vec<u8>)) -> bool {
        let mut bytes = QUERY.to_vec();
        bytes[2] |= 0x80;
        change(&mut bytes);
        answers(&bytes, QUERY)
    }

    #[test]
    fn only_an_answer_to_the_question_is_taken_for_one() {
        assert!(answer(|_| {}));
        assert!(answer(|bytes| bytes[13] = b'A'), "case does not count");
        assert!(!answer(|bytes| bytes[0] ^= 1), "another id");
        assert!(!answer(|bytes| bytes[2] &= 0x7f), "a query");
        assert!(!answer(|bytes| bytes[13] = b'b'), "another name");
        assert!(!answer(|bytes| bytes[16] = 28), "another type");
        assert!(!answer(|bytes| bytes.truncate(14)), "cut short");
        assert!(!answer(|bytes| bytes[5] = 0), "no question and no error");
        assert!(
            answer(|bytes| {
                bytes[5] = 0;
                bytes[3] = 1;
            }),
            "an error may leave the question out"
        );
    }
}
