//! What a deployment says about its roll-out. Pure.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{
    Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet, ReplicaSetStatus,
};
use kube::ResourceExt;

use super::rolling::Limits;
use super::sets;
use crate::context::seconds;
use crate::replicas::shown;

const PROGRESSING: &str = "Progressing";
const AVAILABLE: &str = "Available";
const FAILURE: &str = "ReplicaFailure";
const COMPLETE: &str = "NewReplicaSetAvailable";
const LATE: &str = "ProgressDeadlineExceeded";
/// As the API defaults `progressDeadlineSeconds`.
const DEADLINE: i32 = 600;

/// What this pass did that users should read in the Progressing condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    None,
    Created,
}

/// The deployment's next status, from its sets' statuses.
pub(crate) fn next(
    deployment: &Deployment,
    new: Option<&ReplicaSet>,
    old: &[&ReplicaSet],
    step: Step,
    now: Timestamp,
) -> DeploymentStatus {
    let before = deployment.status.clone().unwrap_or_default();
    let spec = deployment.spec.clone().unwrap_or_default();
    let all = || old.iter().copied().chain(new);
    let sum = |field: fn(&ReplicaSetStatus) -> i32| -> i32 {
        all().filter_map(|set| set.status.as_ref()).map(field).sum()
    };
    let asked: i32 = all().map(sets::wanted).sum();
    let available = sum(|status| status.available_replicas.unwrap_or(0));
    let updated = new.and_then(|set| set.status.as_ref()).map_or(0, |status| status.replicas);
    let mut status = DeploymentStatus {
        observed_generation: deployment.metadata.generation,
        replicas: shown(sum(|status| status.replicas)),
        updated_replicas: shown(updated),
        ready_replicas: shown(sum(|status| status.ready_replicas.unwrap_or(0))),
        available_replicas: shown(available),
        unavailable_replicas: shown((asked - available).max(0)),
        terminating_replicas: Some(sum(|status| status.terminating_replicas.unwrap_or(0))),
        collision_count: before.collision_count,
        conditions: before.conditions.clone(),
    };
    let limits = Limits::of(&spec);
    let conditions = status.conditions.take().unwrap_or_default();
    let mut conditions = Conditions { list: conditions, now };
    if available >= limits.min_available() {
        let text = "Deployment has minimum availability.";
        conditions.set(AVAILABLE, "True", "MinimumReplicasAvailable", text);
    } else {
        let text = "Deployment does not have minimum availability.";
        conditions.set(AVAILABLE, "False", "MinimumReplicasUnavailable", text);
    }
    progress(deployment, &before, &status, new, step, &mut conditions);
    match failure(new, old) {
        Some((reason, message)) => conditions.set(FAILURE, "True", &reason, &message),
        None => conditions.list.retain(|condition| condition.type_ != FAILURE),
    }
    status.conditions = Some(conditions.list);
    status
}

/// How long until the roll-out is late, while it is under way.
pub(crate) fn until_late(deployment: &Deployment, now: Timestamp) -> Option<std::time::Duration> {
    let condition = find(deployment.status.as_ref()?, PROGRESSING)?;
    if matches!(condition.reason.as_deref(), Some(COMPLETE | LATE)) || condition.status != "True" {
        return None;
    }
    let deadline = deadline(deployment)?;
    let elapsed = now.as_second() - condition.last_update_time.as_ref()?.0.as_second();
    let left = u64::try_from(i64::from(deadline) - elapsed).unwrap_or(0);
    Some(std::time::Duration::from_secs(left + 1))
}

/// All replicas are of the current template and available, and nothing else is left.
pub(crate) fn is_complete(deployment: &Deployment, status: &DeploymentStatus) -> bool {
    let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    let number = |field: Option<i32>| field.unwrap_or(0);
    number(status.updated_replicas) == wanted
        && number(status.replicas) == wanted
        && number(status.available_replicas) == wanted
}

fn deadline(deployment: &Deployment) -> Option<i32> {
    let seconds = deployment.spec.as_ref()?.progress_deadline_seconds.unwrap_or(DEADLINE);
    // The API's way to say "never".
    Some(seconds).filter(|seconds| *seconds != i32::MAX)
}

fn find<'s>(status: &'s DeploymentStatus, kind: &str) -> Option<&'s DeploymentCondition> {
    status.conditions.as_deref()?.iter().find(|condition| condition.type_ == kind)
}

fn progress(
    deployment: &Deployment,
    before: &DeploymentStatus,
    status: &DeploymentStatus,
    new: Option<&ReplicaSet>,
    step: Step,
    conditions: &mut Conditions,
) {
    let paused = deployment.spec.as_ref().and_then(|spec| spec.paused).unwrap_or(false);
    let current = find(before, PROGRESSING);
    let reason = current.and_then(|condition| condition.reason.as_deref());
    let Some(deadline) = deadline(deployment) else {
        conditions.list.retain(|condition| condition.type_ != PROGRESSING);
        return;
    };
    if paused {
        if reason != Some("DeploymentPaused") && reason != Some(LATE) {
            conditions.touch(PROGRESSING, "Unknown", "DeploymentPaused", "Deployment is paused");
        }
        return;
    }
    let name = new.map_or_else(|| deployment.name_any(), ResourceExt::name_any);
    let kind = if new.is_some() { "ReplicaSet" } else { "Deployment" };
    let was_complete = reason == Some(COMPLETE) && status.replicas == status.updated_replicas;
    if step == Step::Created {
        let text = format!("Created new replica set \"{name}\"");
        conditions.touch(PROGRESSING, "True", "NewReplicaSetCreated", &text);
    } else if was_complete {
    } else if is_complete(deployment, status) {
        let text = format!("{kind} \"{name}\" has successfully progressed.");
        conditions.touch(PROGRESSING, "True", COMPLETE, &text);
    } else if moved(before, status) {
        let text = format!("{kind} \"{name}\" is progressing.");
        conditions.touch(PROGRESSING, "True", "ReplicaSetUpdated", &text);
    } else if reason == Some("DeploymentPaused") {
        conditions.touch(PROGRESSING, "Unknown", "DeploymentResumed", "Deployment is resumed");
    } else if let Some(condition) = current {
        let last = condition.last_update_time.as_ref().map_or(0, |time| time.0.as_second());
        if conditions.now.as_second() - last > i64::from(deadline) && reason != Some(LATE) {
            let text = format!("{kind} \"{name}\" has timed out progressing.");
            conditions.touch(PROGRESSING, "False", LATE, &text);
        }
    } else if new.is_some() {
        let text = format!("Found new replica set \"{name}\"");
        conditions.touch(PROGRESSING, "True", "FoundNewReplicaSet", &text);
    }
}

fn moved(before: &DeploymentStatus, after: &DeploymentStatus) -> bool {
    let number = |field: Option<i32>| field.unwrap_or(0);
    let old = |status: &DeploymentStatus| number(status.replicas) - number(status.updated_replicas);
    number(after.updated_replicas) > number(before.updated_replicas)
        || old(after) < old(before)
        || number(after.ready_replicas) > number(before.ready_replicas)
        || number(after.available_replicas) > number(before.available_replicas)
}

fn failure(new: Option<&ReplicaSet>, old: &[&ReplicaSet]) -> Option<(String, String)> {
    let sets = new.into_iter().chain(old.iter().copied());
    let mut conditions =
        sets.filter_map(|set| set.status.as_ref()?.conditions.as_deref()).flatten();
    let condition = conditions.find(|condition| condition.type_ == FAILURE)?;
    Some((
        condition.reason.clone().unwrap_or_default(),
        condition.message.clone().unwrap_or_default(),
    ))
}

struct Conditions {
    list: Vec<DeploymentCondition>,
    now: Timestamp,
}

impl Conditions {
    /// Sets a condition; its times change only if it does.
    fn set(&mut self, kind: &str, status: &str, reason: &str, message: &str) {
        let same = self.list.iter().any(|condition| {
            condition.type_ == kind
                && condition.status == status
                && condition.reason.as_deref() == Some(reason)
        });
        if !same {
            self.touch(kind, status, reason, message);
        }
    }

    /// Sets a condition and its update time.
    fn touch(&mut self, kind: &str, status: &str, reason: &str, message: &str) {
        let now = Some(seconds(self.now));
        let old = self.list.iter().position(|condition| condition.type_ == kind);
        let old = old.map(|place| self.list.remove(place));
        let since = old.filter(|old| old.status == status).and_then(|old| old.last_transition_time);
        self.list.push(DeploymentCondition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            last_transition_time: since.or_else(|| now.clone()),
            last_update_time: now,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deployment(replicas: i32) -> Deployment {
        let mut deployment = Deployment::default();
        deployment.spec.get_or_insert_default().replicas = Some(replicas);
        deployment
    }

    fn set(replicas: i32, available: i32) -> ReplicaSet {
        let mut set = ReplicaSet::default();
        set.metadata.name = Some("web-1".to_owned());
        set.spec.get_or_insert_default().replicas = Some(replicas);
        set.status = Some(ReplicaSetStatus {
            replicas,
            available_replicas: Some(available),
            ready_replicas: Some(available),
            ..Default::default()
        });
        set
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a valid time")
    }

    fn reason(deployment: &Deployment) -> String {
        let status = deployment.status.as_ref().expect("status");
        find(status, PROGRESSING).and_then(|condition| condition.reason.clone()).unwrap_or_default()
    }

    #[test]
    fn a_roll_out_is_created_progresses_and_completes() {
        let mut deployment = deployment(2);
        let mut step = |available, step, second| {
            let new = set(2, available);
            deployment.status = Some(next(&deployment, Some(&new), &[], step, at(second)));
            reason(&deployment)
        };
        assert_eq!(step(0, Step::Created, 0), "NewReplicaSetCreated");
        assert_eq!(step(1, Step::None, 1), "ReplicaSetUpdated");
        assert_eq!(step(2, Step::None, 2), COMPLETE);
        assert_eq!(step(1, Step::None, 3), COMPLETE, "a lost pod is no new roll-out");
    }

    #[test]
    fn a_roll_out_without_progress_is_late_after_its_deadline() {
        let mut deployment = deployment(2);
        deployment.spec.as_mut().expect("spec").progress_deadline_seconds = Some(10);
        let new = set(2, 0);
        deployment.status = Some(next(&deployment, Some(&new), &[], Step::Created, at(0)));
        assert_eq!(until_late(&deployment, at(4)), Some(std::time::Duration::from_secs(7)));
        deployment.status = Some(next(&deployment, Some(&new), &[], Step::None, at(9)));
        assert_eq!(reason(&deployment), "NewReplicaSetCreated");
        deployment.status = Some(next(&deployment, Some(&new), &[], Step::None, at(11)));
        assert_eq!(reason(&deployment), LATE);
    }

    #[test]
    fn availability_follows_the_limits() {
        let deployment = deployment(4);
        let status = next(&deployment, Some(&set(4, 3)), &[], Step::None, at(0));
        assert_eq!(find(&status, AVAILABLE).map(|one| one.status.as_str()), Some("True"));
        let status = next(&deployment, Some(&set(4, 2)), &[], Step::None, at(0));
        assert_eq!(find(&status, AVAILABLE).map(|one| one.status.as_str()), Some("False"));
        assert_eq!(status.unavailable_replicas, Some(2));
    }
}
