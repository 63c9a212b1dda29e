//! What a load generator has seen.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Kinds of failure that are told apart, at most; the rest is counted only.
const MAX_KINDS: usize = 32;

/// Counts of one run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Requests answered.
    pub ok: u64,
    /// Requests not answered, or answered wrongly.
    pub failed: u64,
    /// Answers by the name that the backend gave of itself.
    pub backends: BTreeMap<String, u64>,
    /// Failures by what the client saw.
    pub errors: BTreeMap<String, u64>,
    /// Seconds since the start of the first failures, as many as [`Report::MAX_FAILURE_TIMES`].
    pub failure_times: Vec<f64>,
    /// The longest request, in milliseconds.
    pub slowest_ms: f64,
    /// The longest time without any answer, in milliseconds.
    pub longest_gap_ms: f64,
    /// How long the run was, where its kind of load measures that.
    #[serde(default)]
    pub seconds: f64,
    /// When the last request began that was answered, in Unix seconds; where the kind of load tells
    /// when it began itself.
    #[serde(default)]
    pub last_ok_began: f64,
    last_ok: f64,
}

impl Report {
    /// Times of failure that are kept.
    pub const MAX_FAILURE_TIMES: usize = 100;

    /// Counts a request that began at `began` and ended now, both since the run's start.
    pub fn count(&mut self, began: Duration, now: Duration, outcome: Result<String, String>) {
        let took = (now.saturating_sub(began)).as_secs_f64() * 1000.0;
        self.slowest_ms = self.slowest_ms.max(took);
        match outcome {
            Ok(backend) => {
                self.ok += 1;
                *self.backends.entry(backend).or_default() += 1;
                self.last_ok_began = self.last_ok_began.max(began.as_secs_f64());
                let at = now.as_secs_f64();
                self.longest_gap_ms = self.longest_gap_ms.max((at - self.last_ok) * 1000.0);
                self.last_ok = at;
            }
            Err(error) => {
                self.failed += 1;
                if self.errors.len() < MAX_KINDS || self.errors.contains_key(&error) {
                    *self.errors.entry(error).or_default() += 1;
                }
                if self.failure_times.len() < Self::MAX_FAILURE_TIMES {
                    self.failure_times.push(began.as_secs_f64());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_counted_by_kind_and_time() {
        let mut report = Report::default();
        let at = Duration::from_millis;
        report.count(at(0), at(5), Ok("a".into()));
        report.count(at(10), at(30), Err("refused".into()));
        report.count(at(40), at(45), Ok("a".into()));
        assert_eq!((report.ok, report.failed), (2, 1));
        assert_eq!(report.errors["refused"], 1);
        assert!((report.last_ok_began - 0.04).abs() < 1e-9, "{report:?}");
        assert_eq!(report.failure_times, [0.01]);
        assert!((report.longest_gap_ms - 40.0).abs() < 0.01, "{report:?}");
        assert!((report.slowest_ms - 20.0).abs() < 0.01, "{report:?}");
    }
}
