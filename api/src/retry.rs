//! Pauses between the tries of a watch that broke.

use std::time::{Duration, Instant};

use kube::runtime::utils::Backoff;

/// First and longest pause: the apiserver's restart should cost its clients little more than the
/// restart itself.
const FIRST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(2);
/// After so long without a failure the first pause is due again.
const CALM: Duration = Duration::from_secs(10);

/// Doubling pauses for [`kube::runtime::WatchStreamExt::backoff`] that start over after a calm.
///
/// The watcher calls [`Backoff::reset`] whenever a try begins well, and one does even when the
/// apiserver refuses it right after: only time tells that a watch holds.
#[derive(Debug, Default)]
pub struct Retry {
    last: Option<(Instant, Duration)>,
}

impl Retry {
    fn next_at(&mut self, now: Instant) -> Duration {
        let pause = match self.last {
            Some((at, pause)) if now.duration_since(at) < CALM => (pause * 2).min(LONGEST),
            _ => FIRST,
        };
        self.last = Some((now, pause));
        pause
    }
}

impl Iterator for Retry {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        Some(self.next_at(Instant::now()))
    }
}

impl Backoff for Retry {
    fn reset(&mut self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_though_each_try_begins_well_and_start_over_after_a_calm() {
        let (mut retry, now) = (Retry::default(), Instant::now());
        let mut pauses = Vec::new();
        for _ in 0..8 {
            retry.reset();
            pauses.push(retry.next_at(now));
        }
        assert_eq!(pauses[..3], [FIRST, FIRST * 2, FIRST * 4]);
        assert_eq!(pauses[7], LONGEST);
        assert_eq!(retry.next_at(now + CALM), FIRST);
    }
}
