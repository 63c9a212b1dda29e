//! When to try again what failed: exponentially later, each key apart.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

/// The first retry comes this soon; a passing failure costs little more.
const FIRST: Duration = Duration::from_millis(50);
/// Retries come at least this often: a failure that lasts is a machine out of memory, or a bug.
const LAST: Duration = Duration::from_secs(10);

/// Keys that failed and when their time comes.
#[derive(Debug)]
pub(super) struct Retries<K> {
    failed: HashMap<K, (u32, Instant)>,
}

impl<K> Default for Retries<K> {
    fn default() -> Self {
        Self { failed: HashMap::new() }
    }
}

impl<K: Clone + Eq + Hash> Retries<K> {
    pub(super) fn failed(&mut self, key: K, now: Instant) {
        let attempts = self.failed.get(&key).map_or(0, |(attempts, _)| *attempts);
        let pause = FIRST.saturating_mul(1 << attempts.min(16)).min(LAST);
        self.failed.insert(key, (attempts + 1, now + pause));
    }

    pub(super) fn succeeded(&mut self, key: &K) {
        self.failed.remove(key);
    }

    /// Keys whose time has come; they stay until they succeed or fail again.
    pub(super) fn due(&self, now: Instant) -> Vec<K> {
        let due = self.failed.iter().filter(|(_, (_, at))| *at <= now);
        due.map(|(key, _)| key.clone()).collect()
    }

    /// When the next key's time comes.
    pub(super) fn next(&self) -> Option<Instant> {
        self.failed.values().map(|(_, at)| *at).min()
    }

    pub(super) fn len(&self) -> usize {
        self.failed.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_start_over_after_success() {
        let mut retries = Retries::default();
        let mut now = Instant::now();
        let mut pauses = Vec::new();
        for _ in 0..12 {
            retries.failed("a", now);
            let next = retries.next().expect("one is waiting");
            assert!(retries.due(now).is_empty());
            pauses.push((next - now).as_millis());
            now = next;
            assert_eq!(retries.due(now), ["a"]);
        }
        assert_eq!(pauses[..4], [50, 100, 200, 400]);
        assert_eq!(pauses[11], LAST.as_millis());
        retries.succeeded(&"a");
        assert_eq!((retries.len(), retries.next()), (0, None));
        retries.failed("a", now);
        assert_eq!(retries.next(), Some(now + FIRST));
    }
}
