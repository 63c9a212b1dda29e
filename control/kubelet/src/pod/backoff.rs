//! How long a container that ended waits before it is started again.

use std::time::Duration;

use jiff::Timestamp;

/// First wait; the restart before it is immediate.
pub const FIRST: Duration = Duration::from_secs(10);
/// Longest wait.
pub const LONGEST: Duration = Duration::from_secs(300);
/// A container that ran this long starts from the beginning.
pub const FORGIVEN_AFTER: Duration = Duration::from_secs(600);

/// The wait of one container: none, 10 s, 20 s, 40 s and so on up to 5 minutes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backoff {
    delay: Duration,
}

impl Backoff {
    /// The wait of a container about which only its restarts are known: after the kubelet itself
    /// was restarted, a crash loop goes on where it was.
    pub fn after_restarts(restarts: u32) -> Self {
        let mut backoff = Self::default();
        for _ in 0..restarts.min(8) {
            backoff.grow();
        }
        backoff
    }

    /// When a container that started and finished at these times may start again.
    pub fn next_start(&self, started: Option<Timestamp>, finished: Timestamp) -> Timestamp {
        if ran_long(started, finished) {
            return finished;
        }
        finished.checked_add(self.delay).unwrap_or(Timestamp::MAX)
    }

    /// Notes that it is being started again.
    pub fn restarted(&mut self, started: Option<Timestamp>, finished: Timestamp) {
        if ran_long(started, finished) {
            self.delay = Duration::ZERO;
        }
        self.grow();
    }

    /// The wait before the next restart.
    pub fn delay(&self) -> Duration {
        self.delay
    }

    fn grow(&mut self) {
        self.delay = if self.delay.is_zero() { FIRST } else { (self.delay * 2).min(LONGEST) };
    }
}

fn ran_long(started: Option<Timestamp>, finished: Timestamp) -> bool {
    started.is_some_and(|s| {
        finished.duration_since(s)
            >= jiff::SignedDuration::try_from(FORGIVEN_AFTER).unwrap_or_default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a small time")
    }

    #[test]
    fn waits_double_from_ten_seconds_to_five_minutes() {
        let mut backoff = Backoff::default();
        let mut waits = Vec::new();
        for _ in 0..8 {
            let next = backoff.next_start(Some(at(0)), at(1));
            waits.push(next.as_second() - 1);
            backoff.restarted(Some(at(0)), at(1));
        }
        assert_eq!(waits, [0, 10, 20, 40, 80, 160, 300, 300]);
    }

    #[test]
    fn ten_minutes_of_running_are_forgiven() {
        let mut backoff = Backoff::after_restarts(5);
        assert_eq!(backoff.next_start(Some(at(0)), at(600)), at(600));
        backoff.restarted(Some(at(0)), at(600));
        assert_eq!(backoff.delay(), FIRST);
    }

    #[test]
    fn a_crash_loop_goes_on_after_the_kubelet_restarted() {
        assert_eq!(Backoff::after_restarts(0).delay(), Duration::ZERO);
        assert_eq!(Backoff::after_restarts(2).delay(), Duration::from_secs(20));
        assert_eq!(Backoff::after_restarts(1000).delay(), LONGEST);
    }
}
