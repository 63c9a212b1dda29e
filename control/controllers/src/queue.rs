//! Keyed work queues: a key waits at most once and is worked on by one task at a time.
//!
//! ```text
//!   add ──> ready ──next──> running ──done──> (gone)
//!             ^                │ add meanwhile
//!   after ──> delayed          └──> again ──done──> ready
//! ```
//! A queue holds at most one entry a key, so it is bounded by the number of objects.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::future::Future;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// First and longest pause before a failed key is tried again.
const RETRY_MIN: Duration = Duration::from_millis(5);
const RETRY_MAX: Duration = Duration::from_secs(30);

struct State<T> {
    ready: VecDeque<T>,
    /// In `ready`.
    queued: HashSet<T>,
    running: HashSet<T>,
    /// Running, and added meanwhile.
    again: HashSet<T>,
    delayed: BTreeMap<(Instant, u64), T>,
    /// Where each delayed key is: only its earliest time counts.
    due: HashMap<T, (Instant, u64)>,
    failures: HashMap<T, u32>,
    sequence: u64,
}

/// Cheap to clone; all clones are one queue.
pub(crate) struct Queue<T> {
    state: Arc<Mutex<State<T>>>,
    wake: Arc<Notify>,
}

impl<T> Clone for Queue<T> {
    fn clone(&self) -> Self {
        Self { state: Arc::clone(&self.state), wake: Arc::clone(&self.wake) }
    }
}

impl<T: Clone + Eq + Hash> Queue<T> {
    pub(crate) fn new() -> Self {
        Self { state: Arc::new(Mutex::new(State::new())), wake: Arc::new(Notify::new()) }
    }

    /// Asks for `key` to be worked on soon.
    pub(crate) fn add(&self, key: T) {
        self.state.lock().add(key);
        self.wake.notify_one();
    }

    /// The next key; it is running until [`Queue::done`]. Only one task may wait.
    async fn next(&self) -> T {
        loop {
            let wait = match self.state.lock().pop(Instant::now()) {
                Ok(key) => return key,
                Err(wait) => wait,
            };
            let woken = self.wake.notified();
            match wait {
                Some(at) => tokio::select! {
                    () = woken => {}
                    () = tokio::time::sleep_until(at) => {}
                },
                None => woken.await,
            }
        }
    }

    fn done(&self, key: T, outcome: Outcome) {
        self.state.lock().done(key, outcome, Instant::now());
        self.wake.notify_one();
    }
}

impl<T: Clone + Eq + Hash> State<T> {
    fn new() -> Self {
        Self {
            ready: VecDeque::new(),
            queued: HashSet::new(),
            running: HashSet::new(),
            again: HashSet::new(),
            delayed: BTreeMap::new(),
            due: HashMap::new(),
            failures: HashMap::new(),
            sequence: 0,
        }
    }

    fn add(&mut self, key: T) {
        if self.running.contains(&key) {
            self.again.insert(key);
        } else if self.queued.insert(key.clone()) {
            self.ready.push_back(key);
        }
    }

    /// Asks for `key` to be worked on at `at`, or earlier if that was asked for already.
    fn add_at(&mut self, key: T, at: Instant) {
        if let Some(place) = self.due.get(&key).copied() {
            if place.0 <= at {
                return;
            }
            self.delayed.remove(&place);
        }
        self.sequence += 1;
        let place = (at, self.sequence);
        self.delayed.insert(place, key.clone());
        self.due.insert(key, place);
    }

    /// The next key, which then runs, or when to look again.
    fn pop(&mut self, now: Instant) -> Result<T, Option<Instant>> {
        while let Some(entry) = self.delayed.first_entry()
            && entry.key().0 <= now
        {
            let key = entry.remove();
            self.due.remove(&key);
            self.add(key);
        }
        if let Some(key) = self.ready.pop_front() {
            self.queued.remove(&key);
            self.running.insert(key.clone());
            return Ok(key);
        }
        Err(self.delayed.first_key_value().map(|((at, _), _)| *at))
    }

    /// Ends the work on `key`; a failure is retried after a pause that doubles.
    fn done(&mut self, key: T, outcome: Outcome, now: Instant) {
        self.running.remove(&key);
        if self.again.remove(&key) {
            self.add(key.clone());
        }
        let pause = match outcome {
            Outcome::Done => {
                self.failures.remove(&key);
                return;
            }
            Outcome::Again(delay) => {
                self.failures.remove(&key);
                delay
            }
            Outcome::Failed => {
                let failures = self.failures.entry(key.clone()).or_insert(0);
                *failures = failures.saturating_add(1);
                retry_delay(*failures)
            }
        };
        self.add_at(key, now + pause);
    }
}

/// How the work on a key ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Done,
    /// All is well, look again after this long.
    Again(Duration),
    Failed,
}

fn retry_delay(failures: u32) -> Duration {
    RETRY_MIN.saturating_mul(1 << failures.saturating_sub(1).min(20)).min(RETRY_MAX)
}

/// Works on the queue's keys, at most `parallel` at once, until `shutdown`.
pub(crate) async fn work<T, F, E>(
    name: &'static str,
    queue: Queue<T>,
    parallel: usize,
    shutdown: CancellationToken,
    reconcile: impl Fn(T) -> F,
) where
    T: Clone + Eq + Hash + std::fmt::Display + Send + 'static,
    F: Future<Output = Result<Option<Duration>, E>> + Send + 'static,
    E: std::fmt::Display + Failure + Send + 'static,
{
    let mut tasks = JoinSet::new();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            key = queue.next(), if tasks.len() < parallel => {
                let running = reconcile(key.clone());
                let guard = Running { queue: queue.clone(), key: Some(key), outcome: Outcome::Failed };
                tasks.spawn(run_one(name, guard, running));
            }
            Some(_) = tasks.join_next(), if !tasks.is_empty() => {}
        }
    }
}

/// What an error means for the key's further life.
pub(crate) trait Failure {
    /// Part of normal work (conflicts of concurrent writers): retried without a warning.
    fn is_routine(&self) -> bool;

    /// What was to be done can't be done and need not be: the key is let go.
    fn is_moot(&self) -> bool;
}

/// Gives the key back even when the reconciler panics.
struct Running<T: Clone + Eq + Hash> {
    queue: Queue<T>,
    key: Option<T>,
    outcome: Outcome,
}

impl<T: Clone + Eq + Hash> Drop for Running<T> {
    fn drop(&mut self) {
        if let Some(key) = self.key.take() {
            self.queue.done(key, self.outcome);
        }
    }
}

async fn run_one<T, E>(
    name: &'static str,
    mut guard: Running<T>,
    running: impl Future<Output = Result<Option<Duration>, E>>,
) where
    T: Clone + Eq + Hash + std::fmt::Display,
    E: std::fmt::Display + Failure,
{
    guard.outcome = match running.await {
        Ok(None) => Outcome::Done,
        Ok(Some(delay)) => Outcome::Again(delay),
        Err(error) if error.is_moot() => Outcome::Done,
        Err(error) => {
            if let Some(key) = &guard.key {
                if error.is_routine() {
                    tracing::debug!(controller = name, %key, %error, "retrying");
                } else {
                    tracing::warn!(controller = name, %key, %error, "failed; it will be retried");
                }
            }
            Outcome::Failed
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_added_while_running_runs_again_and_never_twice_at_once() {
        let (mut state, now) = (State::new(), Instant::now());
        state.add("a");
        state.add("a");
        assert_eq!(state.pop(now), Ok("a"));
        state.add("a");
        assert_eq!(state.pop(now), Err(None), "a running key must not be handed out");
        state.done("a", Outcome::Done, now);
        assert_eq!(state.pop(now), Ok("a"));
        state.done("a", Outcome::Done, now);
        assert_eq!(state.pop(now), Err(None));
    }

    #[test]
    fn the_earliest_delay_wins() {
        let (mut state, now) = (State::new(), Instant::now());
        let at = |seconds| now + Duration::from_secs(seconds);
        state.add_at("a", at(9));
        state.add_at("a", at(3));
        state.add_at("a", at(5));
        assert_eq!(state.pop(at(2)), Err(Some(at(3))));
        assert_eq!(state.pop(at(3)), Ok("a"));
        state.done("a", Outcome::Done, at(3));
        assert_eq!(state.pop(at(99)), Err(None), "one delay a key");
    }

    #[test]
    fn failures_back_off_up_to_a_bound_and_success_forgets_them() {
        let (mut state, now) = (State::new(), Instant::now());
        state.add("a");
        let (mut at, mut last) = (now, Duration::ZERO);
        for _ in 0..30 {
            assert_eq!(state.pop(at), Ok("a"));
            state.done("a", Outcome::Failed, at);
            let Err(Some(next)) = state.pop(at) else { panic!("it waits") };
            assert!(next - at >= last && next - at <= RETRY_MAX);
            (last, at) = (next - at, next);
        }
        assert_eq!(last, RETRY_MAX);
        assert_eq!(state.pop(at), Ok("a"));
        state.done("a", Outcome::Done, at);
        state.add("a");
        assert_eq!(state.pop(at), Ok("a"));
        state.done("a", Outcome::Failed, at);
        assert_eq!(state.pop(at), Err(Some(at + RETRY_MIN)));
    }

    #[derive(Debug, thiserror::Error)]
    #[error("refused")]
    struct Refused {
        moot: bool,
    }

    impl Failure for Refused {
        fn is_routine(&self) -> bool {
            false
        }

        fn is_moot(&self) -> bool {
            self.moot
        }
    }

    #[tokio::test]
    async fn a_failure_is_retried_unless_it_is_moot() {
        for (moot, due) in [(false, true), (true, false)] {
            let queue = Queue::new();
            queue.add("a");
            let key = Some(queue.next().await);
            let guard = Running { queue: queue.clone(), key, outcome: Outcome::Failed };
            run_one("test", guard, async move { Err(Refused { moot }) }).await;
            let next = queue.state.lock().pop(Instant::now());
            assert_eq!(next.is_err_and(|at| at.is_some()), due, "moot: {moot}");
        }
    }

    #[tokio::test]
    async fn a_waiting_worker_wakes_when_a_key_comes() {
        let queue = Queue::new();
        let adds = queue.clone();
        let (key, ()) = tokio::join!(queue.next(), async move { adds.add("a") });
        assert_eq!(key, "a");
    }
}
