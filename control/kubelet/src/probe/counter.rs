//! When a row of results becomes a verdict. Pure.

use k8s_openapi::api::core::v1::Probe;

/// What a row of equal results means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Good,
    Bad,
}

/// Counts equal results in a row against a probe's thresholds.
#[derive(Clone, Debug)]
pub struct Counter {
    last: Option<bool>,
    row: u32,
    good_after: u32,
    bad_after: u32,
}

impl Counter {
    pub fn new(probe: &Probe) -> Self {
        let at_least_one = |n: Option<i32>, default| {
            n.and_then(|n| u32::try_from(n).ok()).filter(|n| *n > 0).unwrap_or(default)
        };
        Self {
            last: None,
            row: 0,
            good_after: at_least_one(probe.success_threshold, 1),
            bad_after: at_least_one(probe.failure_threshold, 3),
        }
    }

    pub fn needs_one_success(&self) -> bool {
        self.good_after == 1
    }

    /// Notes a result; a verdict once its row is long enough, and for every result after that.
    pub fn count(&mut self, success: bool) -> Option<Verdict> {
        if self.last == Some(success) {
            self.row = self.row.saturating_add(1);
        } else {
            self.last = Some(success);
            self.row = 1;
        }
        match success {
            true if self.row >= self.good_after => Some(Verdict::Good),
            false if self.row >= self.bad_after => Some(Verdict::Bad),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(success: i32, failure: i32, results: &str, expected: &str) {
        let probe = Probe {
            success_threshold: Some(success),
            failure_threshold: Some(failure),
            ..Probe::default()
        };
        let mut counter = Counter::new(&probe);
        let verdicts: String = results
            .chars()
            .map(|r| match counter.count(r == '+') {
                Some(Verdict::Good) => 'G',
                Some(Verdict::Bad) => 'B',
                None => '.',
            })
            .collect();
        assert_eq!(verdicts, expected, "{results} with {success}/{failure}");
    }

    #[test]
    fn only_a_row_of_equal_results_is_a_verdict() {
        check(1, 3, "+--+---+", "G..G..BG");
        check(2, 1, "+-++", ".B.G");
        check(0, 0, "---+", "..BG");
    }
}
