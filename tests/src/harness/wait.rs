//! Waiting for a condition, with a deadline and the reason why it does not hold.

use std::time::{Duration, Instant};

const POLL: Duration = Duration::from_millis(25);

/// Waits until `condition` holds; panics with its last reason after `seconds`. Returns how long it
/// took.
#[track_caller]
pub fn eventually(
    what: &str,
    seconds: u64,
    mut condition: impl FnMut() -> Result<(), String>,
) -> Duration {
    let start = Instant::now();
    eventually_some(what, seconds, || condition().map(Some));
    start.elapsed()
}

/// Waits until `look` finds something, and returns it.
#[track_caller]
pub fn eventually_some<T>(
    what: &str,
    seconds: u64,
    mut look: impl FnMut() -> Result<Option<T>, String>,
) -> T {
    let start = Instant::now();
    loop {
        let reason = match look() {
            Ok(Some(found)) => return found,
            Ok(None) => "not yet".to_owned(),
            Err(reason) => reason,
        };
        assert!(
            start.elapsed() < Duration::from_secs(seconds),
            "after {seconds} s still not: {what}; {reason}"
        );
        std::thread::sleep(POLL);
    }
}
