//! Answers from upstream, kept for as long as they say (and no longer than [`FRESH_MAX`]).
//!
//! Answers are kept as bytes and given out as bytes: only the id, the spelling of the question and
//! the TTLs are the asker's own. When upstream fails, an answer that is past its time is better than
//! none (RFC 8767).

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use crate::wire::{HEADER, Transport};

/// Answers kept at most.
pub const ENTRIES_MAX: usize = 4096;
/// Answers longer than this are not kept.
const ANSWER_MAX: usize = 4096;
/// The cluster's clients want to hear of changes soon, whatever a name's owner says.
pub const FRESH_MAX: Duration = Duration::from_secs(30);
/// How long an answer may be given out when upstream fails, and the TTL that it has then.
const STALE_MAX: Duration = Duration::from_secs(3600);
const STALE_TTL: u32 = 30;

const NOERROR: u8 = 0;
const NXDOMAIN: u8 = 3;
const TYPE_SOA: u16 = 6;
const TYPE_OPT: u16 = 41;

struct Entry {
    answer: Box<[u8]>,
    /// Where in the answer its TTLs are.
    ttls: Box<[u16]>,
    stored: Instant,
    fresh_for: Duration,
}

#[derive(Default)]
pub struct Cache {
    entries: HashMap<Box<[u8]>, Entry>,
}

/// Whether an answer within its time is wanted, or one past it will do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accept {
    Fresh,
    Stale,
}

impl Cache {
    /// An answer to the very same query, but for its id and the case of its name.
    pub fn get(
        &self,
        query: &[u8],
        transport: Transport,
        accept: Accept,
        now: Instant,
    ) -> Option<Vec<u8>> {
        let (key, question) = key(query, transport)?;
        let entry = self.entries.get(&key)?;
        let age = now.saturating_duration_since(entry.stored);
        let fresh = age < entry.fresh_for;
        if !fresh && (accept == Accept::Fresh || age > STALE_MAX) {
            return None;
        }
        let mut answer = entry.answer.to_vec();
        answer[..2].copy_from_slice(&query[..2]);
        answer[HEADER..question].copy_from_slice(&query[HEADER..question]);
        let age = u32::try_from(age.as_secs()).unwrap_or(u32::MAX);
        for &at in &entry.ttls {
            let at = usize::from(at);
            let ttl = u32_at(&answer, at)?;
            let left = if fresh { ttl.saturating_sub(age) } else { STALE_TTL };
            answer[at..at + 4].copy_from_slice(&left.to_be_bytes());
        }
        Some(answer)
    }

    /// Keeps an answer, if it is of a kind that may be kept.
    pub fn put(&mut self, query: &[u8], transport: Transport, answer: &[u8], now: Instant) {
        let Some((key, question)) = key(query, transport) else { return };
        let Some(kept) = keepable(answer, question) else { return };
        if self.entries.len() >= ENTRIES_MAX && !self.entries.contains_key(&key) {
            self.make_room(now);
        }
        let mut answer: Box<[u8]> = answer.into();
        // What comes from here is not its authority's own word (AA).
        answer[2] &= !0x04;
        self.entries.insert(
            key,
            Entry { answer, ttls: kept.ttls.into(), stored: now, fresh_for: kept.fresh_for },
        );
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Drops what is past its time, or else the older half.
    fn make_room(&mut self, now: Instant) {
        self.entries
            .retain(|_, entry| now.saturating_duration_since(entry.stored) < entry.fresh_for);
        if self.entries.len() >= ENTRIES_MAX {
            let mut ages: Vec<Instant> = self.entries.values().map(|entry| entry.stored).collect();
            let middle = ages.len() / 2;
            let (_, median, _) = ages.select_nth_unstable(middle);
            let median = *median;
            self.entries.retain(|_, entry| entry.stored > median);
        }
    }
}

/// The query without its id and case, and where its question ends.
fn key(query: &[u8], transport: Transport) -> Option<(Box<[u8]>, usize)> {
    let name = skip_name(query, HEADER)?;
    let end = name + 4;
    let mut key = vec![transport as u8];
    key.extend_from_slice(query.get(2..)?);
    let shift = 1;
    key.get_mut(HEADER - 2 + shift..name - 2 + shift)?.make_ascii_lowercase();
    query.get(..end)?;
    Some((key.into(), end))
}

struct Kept {
    ttls: Vec<u16>,
    fresh_for: Duration,
}

/// `None` if the answer is an error, is cut, is to another question, or says nothing of its time.
fn keepable(answer: &[u8], question: usize) -> Option<Kept> {
    let code = answer.get(3)? & 0x0f;
    let cut = answer[2] & 0x02 != 0;
    if answer.len() > ANSWER_MAX || cut || !matches!(code, NOERROR | NXDOMAIN) {
        return None;
    }
    if u16_at(answer, 4)? != 1 || skip_name(answer, HEADER)? + 4 != question {
        return None;
    }
    let counts = [u16_at(answer, 6)?, u16_at(answer, 8)?, u16_at(answer, 10)?];
    let negative = counts[0] == 0;
    let mut at = question;
    let mut ttls = vec![];
    let mut shortest: Option<u32> = None;
    for (section, count) in counts.into_iter().enumerate() {
        for _ in 0..count {
            let fixed = skip_name(answer, at)?;
            let record_type = u16_at(answer, fixed)?;
            let ttl = u32_at(answer, fixed + 4)?;
            let data = fixed + 10;
            at = data + usize::from(u16_at(answer, fixed + 8)?);
            answer.get(data..at)?;
            if record_type == TYPE_OPT {
                continue;
            }
            ttls.push(u16::try_from(fixed + 4).ok()?);
            let counts_for = match (section, negative) {
                (0, _) => Some(ttl),
                // RFC 2308: the lesser of the SOA's TTL and its last field.
                (1, true) if record_type == TYPE_SOA => {
                    Some(ttl.min(u32_at(answer, at.checked_sub(4)?)?))
                }
                _ => None,
            };
            shortest = match (shortest, counts_for) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            };
        }
    }
    let fresh_for = Duration::from_secs(shortest?.into()).min(FRESH_MAX);
    (!fresh_for.is_zero()).then_some(Kept { ttls, fresh_for })
}

/// Where the name at `at` ends. Pointers (RFC 1035, 4.1.4) are the end of a name.
fn skip_name(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *bytes.get(at)? {
            0 => return Some(at + 1),
            label @ 1..=63 => at += usize::from(label) + 1,
            192.. => return Some(at + 2),
            _ => return None,
        }
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests;
