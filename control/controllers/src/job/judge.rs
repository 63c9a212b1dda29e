//! How a job stands: what has succeeded and failed, whether it is over, how many pods it wants.
//! Pure.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobCondition, JobSpec};
use k8s_openapi::api::core::v1::Pod;

use super::indexes;
use crate::pods;

/// Keeps a pod until the job has counted it.
pub(crate) const FINALIZER: &str = "batch.kubernetes.io/job-tracking";
pub(crate) const INDEX: &str = "batch.kubernetes.io/job-completion-index";
/// As the API defaults `backoffLimit`.
const BACKOFF_LIMIT: i32 = 6;
/// First and longest pause after a failed pod; it doubles with each failure.
const BACKOFF_MIN: Duration = Duration::from_secs(10);
const BACKOFF_MAX: Duration = Duration::from_secs(600);

pub(crate) fn condition<'j>(job: &'j Job, kind: &str) -> Option<&'j JobCondition> {
    let conditions = job.status.as_ref()?.conditions.as_deref()?;
    conditions.iter().find(|condition| condition.type_ == kind && condition.status == "True")
}

/// Over for good.
pub(crate) fn is_finished(job: &Job) -> bool {
    condition(job, "Complete").is_some() || condition(job, "Failed").is_some()
}

pub(crate) fn is_indexed(spec: &JobSpec) -> bool {
    spec.completion_mode.as_deref() == Some("Indexed")
}

pub(crate) fn index_of(pod: &Pod) -> Option<i32> {
    pod.metadata.annotations.as_ref()?.get(INDEX)?.parse().ok()
}

pub(crate) fn is_tracked(pod: &Pod) -> bool {
    pod.metadata.finalizers.iter().flatten().any(|one| one == FINALIZER)
}

/// Counts as failed: ended so, or on its way out unless the job waits for the end.
pub(crate) fn has_failed(spec: &JobSpec, pod: &Pod) -> bool {
    let waits = spec.pod_replacement_policy.as_deref() == Some("Failed");
    pods::phase(pod) == "Failed"
        || (pod.metadata.deletion_timestamp.is_some() && !waits && pods::phase(pod) != "Succeeded")
}

/// Counters after what was counted in this pass.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) succeeded: i32,
    pub(crate) failed: i32,
    /// Indexed jobs: what is done.
    pub(crate) completed: BTreeSet<i32>,
}

/// Why a job is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    Running,
    Complete,
    Failed { reason: &'static str, message: &'static str },
}

pub(crate) fn verdict(job: &Job, tally: &Tally, active: &[Arc<Pod>], now: Timestamp) -> Verdict {
    let Some(spec) = &job.spec else { return Verdict::Running };
    if let Some(target) = condition(job, "FailureTarget") {
        // Decided before; its pods are still ending.
        return match target.reason.as_deref() {
            Some("DeadlineExceeded") => deadline_exceeded(),
            _ => backoff_exceeded(),
        };
    }
    let complete = match (is_indexed(spec), spec.completions) {
        (true, wanted) => {
            tally.completed.len() >= usize::try_from(wanted.unwrap_or(1)).unwrap_or(0)
        }
        (false, Some(wanted)) => tally.succeeded >= wanted,
        // Without a number one success is enough, once all that run have ended.
        (false, None) => tally.succeeded > 0 && active.is_empty(),
    };
    if complete {
        return Verdict::Complete;
    }
    let limit = spec.backoff_limit.unwrap_or(BACKOFF_LIMIT);
    if tally.failed > limit || restarted_too_often(spec, active, limit) {
        return backoff_exceeded();
    }
    if until_deadline(job, now).is_some_and(|left| left.is_zero()) {
        return deadline_exceeded();
    }
    Verdict::Running
}

fn backoff_exceeded() -> Verdict {
    let message = "Job has reached the specified backoff limit";
    Verdict::Failed { reason: "BackoffLimitExceeded", message }
}

fn deadline_exceeded() -> Verdict {
    let message = "Job was active longer than specified deadline";
    Verdict::Failed { reason: "DeadlineExceeded", message }
}

/// Pods that restart in place count by their restarts.
fn restarted_too_often(spec: &JobSpec, active: &[Arc<Pod>], limit: i32) -> bool {
    let policy = spec.template.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref());
    if policy != Some("OnFailure") {
        return false;
    }
    let statuses = active.iter().filter_map(|pod| pod.status.as_ref());
    let restarts: i32 = statuses
        .flat_map(|status| {
            let init = status.init_container_statuses.iter().flatten();
            status.container_statuses.iter().flatten().chain(init)
        })
        .map(|status| status.restart_count)
        .sum();
    if limit == 0 { restarts > 0 } else { restarts >= limit }
}

/// How long the job may still run, if that is limited.
pub(crate) fn until_deadline(job: &Job, now: Timestamp) -> Option<Duration> {
    let limit = job.spec.as_ref()?.active_deadline_seconds?;
    let start = job.status.as_ref()?.start_time.as_ref()?.0;
    let run = Duration::try_from(now.duration_since(start)).unwrap_or_default();
    Some(Duration::from_secs(u64::try_from(limit).unwrap_or(0)).saturating_sub(run))
}

/// How many pods should run now.
pub(crate) fn wanted(spec: &JobSpec, tally: &Tally, active: usize) -> usize {
    let number = |value: i32| usize::try_from(value).unwrap_or(0);
    let parallelism = number(spec.parallelism.unwrap_or(1));
    if is_indexed(spec) {
        let left = number(spec.completions.unwrap_or(1)).saturating_sub(tally.completed.len());
        return parallelism.min(left);
    }
    match spec.completions {
        Some(completions) => parallelism.min(number(completions - tally.succeeded)),
        // After the first success no more are started.
        None if tally.succeeded > 0 => parallelism.min(active),
        None => parallelism,
    }
}

/// The lowest indexes that are neither done nor being worked on.
pub(crate) fn free_indexes(
    spec: &JobSpec,
    tally: &Tally,
    active: &[Arc<Pod>],
    number: usize,
) -> Vec<i32> {
    let busy: BTreeSet<i32> = active.iter().filter_map(|pod| index_of(pod)).collect();
    (0..spec.completions.unwrap_or(1))
        .filter(|index| !busy.contains(index) && !tally.completed.contains(index))
        .take(number)
        .collect()
}

/// How long after the last failure new pods wait.
pub(crate) fn backoff_left(failed: i32, last: Option<Timestamp>, now: Timestamp) -> Duration {
    let (Some(last), 1..) = (last, failed) else { return Duration::ZERO };
    let doublings = u32::try_from(failed - 1).unwrap_or(0).min(10);
    let pause = BACKOFF_MIN.saturating_mul(1 << doublings).min(BACKOFF_MAX);
    let passed = Duration::try_from(now.duration_since(last)).unwrap_or_default();
    pause.saturating_sub(passed)
}

/// When the pod's last container ended.
pub(crate) fn ended_at(pod: &Pod) -> Option<Timestamp> {
    let statuses = pod.status.as_ref()?.container_statuses.as_deref().unwrap_or_default();
    let ends = statuses.iter().filter_map(|status| {
        let terminated = status.state.as_ref()?.terminated.as_ref()?;
        terminated.finished_at.as_ref().map(|time| time.0)
    });
    let deleted = pod.metadata.deletion_timestamp.as_ref().map(|time| time.0);
    ends.max().or(deleted)
}

/// The counters so far, from the status.
pub(crate) fn tally(job: &Job) -> Tally {
    let status = job.status.clone().unwrap_or_default();
    let completions = job.spec.as_ref().and_then(|spec| spec.completions).unwrap_or(0);
    let completed = status.completed_indexes.as_deref().unwrap_or_default();
    Tally {
        succeeded: status.succeeded.unwrap_or(0),
        failed: status.failed.unwrap_or(0),
        completed: indexes::parse(completed, completions),
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::batch::v1::JobStatus;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::*;

    fn spec(completions: Option<i32>, parallelism: i32) -> JobSpec {
        JobSpec { completions, parallelism: Some(parallelism), ..Default::default() }
    }

    fn done(succeeded: i32, failed: i32) -> Tally {
        Tally { succeeded, failed, completed: BTreeSet::new() }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a valid time")
    }

    #[test]
    fn no_more_pods_are_wanted_than_successes_are_missing() {
        assert_eq!(wanted(&spec(Some(5), 3), &done(0, 0), 0), 3);
        assert_eq!(wanted(&spec(Some(5), 3), &done(4, 0), 0), 1);
        assert_eq!(wanted(&spec(None, 3), &done(0, 0), 0), 3);
        assert_eq!(wanted(&spec(None, 3), &done(1, 0), 2), 2, "a work queue only drains");
    }

    #[test]
    fn an_indexed_job_fills_its_gaps() {
        let spec = JobSpec { completion_mode: Some("Indexed".into()), ..spec(Some(5), 3) };
        let tally = Tally { completed: [0, 2].into(), ..Tally::default() };
        assert_eq!(free_indexes(&spec, &tally, &[], 2), [1, 3]);
        assert_eq!(wanted(&spec, &tally, 0), 3);
    }

    #[test]
    fn a_job_ends_by_success_failures_or_time() {
        let mut job = Job { spec: Some(spec(Some(2), 1)), ..Default::default() };
        let now = at(100);
        assert_eq!(verdict(&job, &done(1, 0), &[], now), Verdict::Running);
        assert_eq!(verdict(&job, &done(2, 0), &[], now), Verdict::Complete);
        assert_eq!(verdict(&job, &done(1, 6), &[], now), Verdict::Running);
        assert_eq!(verdict(&job, &done(1, 7), &[], now), backoff_exceeded());
        job.spec.as_mut().expect("spec").active_deadline_seconds = Some(10);
        job.status = Some(JobStatus { start_time: Some(Time(at(90))), ..Default::default() });
        assert_eq!(verdict(&job, &done(1, 0), &[], at(99)), Verdict::Running);
        assert_eq!(verdict(&job, &done(1, 0), &[], now), deadline_exceeded());
    }

    #[test]
    fn failures_make_the_next_pod_wait_longer() {
        let left = |failed, now| backoff_left(failed, Some(at(0)), at(now)).as_secs();
        assert_eq!((left(0, 0), left(1, 4), left(2, 4), left(30, 0)), (0, 6, 16, 600));
    }
}
