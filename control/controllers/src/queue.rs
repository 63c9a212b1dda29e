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
        let state = State {
            ready: VecDeque::new(),
            queued: HashSet::new(),
            running: HashSet::new(),
            again: HashSet::new(),
            delayed: BTreeMap::new(),
            due: HashMap::new(),
            failures: HashMap::new(),
            sequence: 0,
        };
        Self { state: Arc::new(Mutex::new(state)), wake: Arc::new(Notify::new()) }
    }

    /// Asks for `key` to be worked on soon.
    pub(crate) fn add(&self, key: T) {
        self.state.lock().add(key);
        self.wake.notify_one();
    }

    /// Asks for `key` to be worked on in `delay`, or earlier if that was asked for already.
    pub(crate) fn add_after(&self, key: T, delay: Duration) {
        if delay.is_zero() {
            return self.add(key);
        }
        let mut state = self.state.lock();
        let at = Instant::now() + delay;
        if let Some(place) = state.due.get(&key).copied() {
            if place.0 <= at {
                return;
            }
            state.delayed.remove(&place);
        }
        state.sequence += 1;
        let place = (at, state.sequence);
        state.delayed.insert(place, key.clone());
        state.due.insert(key, place);
        drop(state);
        self.wake.notify_one();
    }

    /// The next key; it is running until [`Queue::done`]. Only one task may wait.
    pub(crate) async fn next(&self) -> T {
        loop {
            let wait = {
                let mut state = self.state.lock();
                let now = Instant::now();
                while let Some(entry) = state.delayed.first_entry()
                    && entry.key().0 <= now
                {
                    let key = entry.remove();
                    state.due.remove(&key);
                    state.add(key);
                }
                if let Some(key) = state.ready.pop_front() {
                    state.queued.remove(&key);
                    state.running.insert(key.clone());
                    return key;
                }
                state.delayed.first_key_value().map(|((at, _), _)| *at)
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

    /// Ends the work on `key`; a failure is retried after a pause that doubles.
    pub(crate) fn done(&self, key: T, outcome: Outcome) {
        let retry = {
            let mut state = self.state.lock();
            state.running.remove(&key);
            if state.again.remove(&key) {
                state.add(key.clone());
            }
            match outcome {
                Outcome::Done => {
                    state.failures.remove(&key);
                    None
                }
                Outcome::Again(delay) => {
                    state.failures.remove(&key);
                    Some(delay)
                }
                Outcome::Failed => {
                    let failures = state.failures.entry(key.clone()).or_insert(0);
                    *failures = failures.saturating_add(1);
                    Some(retry_delay(*failures))
                }
            }
        };
        match retry {
            Some(delay) => self.add_after(key, delay),
            None => self.wake.notify_one(),
        }
    }
}

impl<T: Clone + Eq + Hash> State<T> {
    fn add(&mut self, key: T) {
        if self.running.contains(&key) {
            self.again.insert(key);
        } else if self.queued.insert(key.clone()) {
            self.ready.push_back(key);
        }
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
    E: std::fmt::Display + IsRoutine + Send + 'static,
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

/// Errors that are part of normal work (conflicts of concurrent writers) are not worth a warning.
pub(crate) trait IsRoutine {
    fn is_routine(&self) -> bool;
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
    E: std::fmt::Display + IsRoutine,
{
    guard.outcome = match running.await {
        Ok(None) => Outcome::Done,
        Ok(Some(delay)) => Outcome::Again(delay),
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

    #[tokio::test(start_paused = true)]
    async fn a_key_added_while_running_runs_again_and_never_twice_at_once() {
        let queue = Queue::new();
        queue.add("a");
        queue.add("a");
        assert_eq!(queue.next().await, "a");
        queue.add("a");
        assert!(
            tokio::time::timeout(Duration::from_secs(60), queue.next()).await.is_err(),
            "a running key must not be handed out"
        );
        queue.done("a", Outcome::Done);
        assert_eq!(queue.next().await, "a");
        queue.done("a", Outcome::Done);
        assert!(tokio::time::timeout(Duration::from_secs(60), queue.next()).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn the_earliest_delay_wins() {
        let queue = Queue::new();
        let start = Instant::now();
        queue.add_after("a", Duration::from_secs(9));
        queue.add_after("a", Duration::from_secs(3));
        queue.add_after("a", Duration::from_secs(5));
        queue.next().await;
        assert_eq!(start.elapsed().as_secs(), 3);
        queue.done("a", Outcome::Done);
        assert!(tokio::time::timeout(Duration::from_secs(60), queue.next()).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn failures_back_off_up_to_a_bound() {
        let queue = Queue::new();
        queue.add("a");
        let mut last = Duration::ZERO;
        for _ in 0..30 {
            let start = Instant::now();
            queue.next().await;
            let waited = start.elapsed();
            assert!(waited >= last && waited <= RETRY_MAX + RETRY_MIN, "{waited:?}");
            last = waited;
            queue.done("a", Outcome::Failed);
        }
        assert!(last >= RETRY_MAX);
    }
}
