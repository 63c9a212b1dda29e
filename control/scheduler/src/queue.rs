//! Pods that wait for a node: ready to be tried (active), resting after a failure (backoff), or
//! waiting for the cluster to change (unschedulable). Pure; time is handed in.
//!
//! ```text
//!   add ──> active ──pop──> tried ──no node──> unschedulable
//!             ^               │                       │ something changed, or FLUSH
//!             │               └─binding refused─┐     │
//!             └──── backoff <───────────────────┴─────┘ (active at once if it has rested)
//! ```

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use bowline_api::informer::Key;
use tokio::time::Instant;

/// First and longest rest of a pod that did not fit. Short at first: a node that becomes ready is
/// the usual reason for a second try.
const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// A pod that nothing has called back is tried again after this long.
pub(crate) const FLUSH: Duration = Duration::from_secs(300);

/// Why an unschedulable pod is worth another try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wakeup {
    /// A node came, went or changed, or a pod left one.
    Room,
    /// A pod was placed: only affinity to pods can gain by it.
    Company,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Active {
        order: (Reverse<i32>, u64),
    },
    Backoff {
        until: Instant,
        sequence: u64,
    },
    /// Under decision, or chosen a node for: nothing that happens to the cluster calls it back.
    Tried,
    Unschedulable {
        since: Instant,
        wants_company: bool,
    },
}

#[derive(Debug)]
struct Waiting {
    place: Place,
    priority: i32,
    attempts: u32,
    rest_until: Instant,
}

/// Bounded by the number of unbound pods.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    pods: HashMap<Key, Waiting>,
    active: BTreeSet<((Reverse<i32>, u64), Key)>,
    backoff: BTreeSet<(Instant, u64, Key)>,
    sequence: u64,
}

impl Queue {
    /// A new pod, or one that changed: it is tried as soon as it has rested.
    pub(crate) fn add(&mut self, key: &Key, priority: i32, now: Instant) {
        if let Some(waiting) = self.pods.get(key) {
            if matches!(waiting.place, Place::Unschedulable { .. }) {
                self.wake(key, now);
            }
            return;
        }
        let waiting = Waiting {
            place: Place::Unschedulable { since: now, wants_company: false },
            priority,
            attempts: 0,
            rest_until: now,
        };
        self.pods.insert(key.clone(), waiting);
        self.wake(key, now);
    }

    pub(crate) fn remove(&mut self, key: &Key) {
        self.take_out(key);
        self.pods.remove(key);
    }

    /// The next pod to try: highest priority, then longest waiting. It stays known until
    /// [`Queue::remove`] or [`Queue::put_aside`].
    pub(crate) fn pop(&mut self, now: Instant) -> Option<Key> {
        while let Some((until, _, key)) = self.backoff.first().cloned()
            && until <= now
        {
            self.take_out(&key);
            self.activate(&key);
        }
        let (_, key) = self.active.pop_first()?;
        if let Some(waiting) = self.pods.get_mut(&key) {
            waiting.place = Place::Tried;
        }
        Some(key)
    }

    /// The pod fits nowhere now.
    pub(crate) fn put_aside(&mut self, key: &Key, wants_company: bool, now: Instant) {
        self.take_out(key);
        if let Some(waiting) = self.pods.get_mut(key) {
            waiting.attempts = waiting.attempts.saturating_add(1);
            waiting.rest_until = now + rest(waiting.attempts);
            waiting.place = Place::Unschedulable { since: now, wants_company };
        }
    }

    /// The attempt failed for no reason of the pod's: it is tried again after its rest.
    pub(crate) fn retry(&mut self, key: &Key, now: Instant) {
        self.put_aside(key, false, now);
        self.wake(key, now);
    }

    /// The cluster changed.
    pub(crate) fn wake_all(&mut self, why: Wakeup, now: Instant) {
        let called = |waiting: &Waiting| match waiting.place {
            Place::Unschedulable { wants_company, .. } => why == Wakeup::Room || wants_company,
            _ => false,
        };
        let keys: Vec<Key> =
            self.pods.iter().filter(|(_, one)| called(one)).map(|(key, _)| key.clone()).collect();
        for key in keys {
            self.wake(&key, now);
        }
    }

    /// Calls back what has waited too long; a safety net.
    pub(crate) fn flush(&mut self, now: Instant) {
        let late = |waiting: &Waiting| match waiting.place {
            Place::Unschedulable { since, .. } => now.duration_since(since) >= FLUSH,
            _ => false,
        };
        let keys: Vec<Key> =
            self.pods.iter().filter(|(_, one)| late(one)).map(|(key, _)| key.clone()).collect();
        for key in keys {
            self.wake(&key, now);
        }
    }

    /// When a resting pod can be tried next.
    pub(crate) fn next_at(&self) -> Option<Instant> {
        self.backoff.first().map(|(until, ..)| *until)
    }

    fn wake(&mut self, key: &Key, now: Instant) {
        self.take_out(key);
        let Some(waiting) = self.pods.get_mut(key) else { return };
        if waiting.rest_until <= now {
            return self.activate(key);
        }
        self.sequence += 1;
        let (until, sequence) = (waiting.rest_until, self.sequence);
        waiting.place = Place::Backoff { until, sequence };
        self.backoff.insert((until, sequence, key.clone()));
    }

    fn activate(&mut self, key: &Key) {
        self.sequence += 1;
        let Some(waiting) = self.pods.get_mut(key) else { return };
        let order = (Reverse(waiting.priority), self.sequence);
        waiting.place = Place::Active { order };
        self.active.insert((order, key.clone()));
    }

    fn take_out(&mut self, key: &Key) {
        match self.pods.get(key).map(|waiting| waiting.place) {
            Some(Place::Active { order }) => {
                self.active.remove(&(order, key.clone()));
            }
            Some(Place::Backoff { until, sequence }) => {
                self.backoff.remove(&(until, sequence, key.clone()));
            }
            _ => {}
        }
    }
}

fn rest(attempts: u32) -> Duration {
    BACKOFF_MIN.saturating_mul(1 << attempts.saturating_sub(1).min(16)).min(BACKOFF_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        Key::new("default", name)
    }

    #[test]
    fn higher_priority_goes_first_and_peers_in_order() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.add(&key("a"), 0, now);
        queue.add(&key("b"), 0, now);
        queue.add(&key("c"), 9, now);
        queue.add(&key("a"), 0, now);
        let order: Vec<_> = std::iter::from_fn(|| queue.pop(now)).map(|key| key.name).collect();
        assert_eq!(order, ["c", "a", "b"]);
    }

    #[test]
    fn an_unschedulable_pod_waits_for_a_change_and_rests_first() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.add(&key("a"), 0, now);
        queue.pop(now);
        queue.put_aside(&key("a"), false, now);
        assert_eq!(queue.pop(now + Duration::from_secs(60)), None, "nothing has changed");
        queue.wake_all(Wakeup::Company, now);
        assert_eq!(queue.pop(now + Duration::from_secs(60)), None, "company is no help to it");
        queue.wake_all(Wakeup::Room, now);
        assert_eq!(queue.pop(now), None, "it rests");
        assert_eq!(queue.next_at(), Some(now + BACKOFF_MIN));
        assert_eq!(queue.pop(now + BACKOFF_MIN), Some(key("a")));
    }

    #[test]
    fn a_forgotten_pod_is_flushed() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.add(&key("a"), 0, now);
        queue.pop(now);
        queue.put_aside(&key("a"), false, now);
        queue.flush(now + FLUSH);
        assert_eq!(queue.pop(now + FLUSH), Some(key("a")));
    }
}
