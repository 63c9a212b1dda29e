//! The two kinds that ask for replicas, and how their statuses say the same.

use bowline_api::informer::Informer;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::{
    PodTemplateSpec, ReplicationController, ReplicationControllerCondition,
    ReplicationControllerStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use super::{Counts, Replicated, shown};
use crate::context::Context;

const FAILURE: &str = "ReplicaFailure";
const REASON: &str = "FailedCreate";

impl Replicated for ReplicaSet {
    fn cache(context: &Context) -> &Informer<Self> {
        &context.caches.replica_sets
    }

    fn wanted(&self) -> i32 {
        self.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
    }

    fn selector(&self) -> Option<LabelSelector> {
        self.spec.as_ref().map(|spec| spec.selector.clone())
    }

    fn template(&self) -> Option<&PodTemplateSpec> {
        self.spec.as_ref()?.template.as_ref()
    }

    fn min_ready(&self) -> i32 {
        self.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0)
    }

    fn counts(&self) -> Option<Counts> {
        let status = self.status.as_ref()?;
        let mut conditions = status.conditions.iter().flatten();
        let failure = conditions.find(|condition| condition.type_ == FAILURE);
        Some(Counts {
            replicas: status.replicas,
            labelled: status.fully_labeled_replicas.unwrap_or(0),
            ready: status.ready_replicas.unwrap_or(0),
            available: status.available_replicas.unwrap_or(0),
            terminating: status.terminating_replicas.unwrap_or(0),
            generation: status.observed_generation,
            failure: failure.map(|one| {
                (one.message.clone().unwrap_or_default(), one.last_transition_time.clone())
            }),
        })
    }

    fn set_counts(&mut self, counts: Counts) {
        let failure = counts.failure.map(|(message, since)| ReplicaSetCondition {
            type_: FAILURE.to_owned(),
            status: "True".to_owned(),
            reason: Some(REASON.to_owned()),
            message: Some(message),
            last_transition_time: since,
        });
        self.status = Some(ReplicaSetStatus {
            replicas: counts.replicas,
            fully_labeled_replicas: shown(counts.labelled),
            ready_replicas: shown(counts.ready),
            available_replicas: shown(counts.available),
            terminating_replicas: Some(counts.terminating),
            observed_generation: counts.generation,
            conditions: failure.map(|condition| vec![condition]),
        });
    }
}

impl Replicated for ReplicationController {
    fn cache(context: &Context) -> &Informer<Self> {
        &context.caches.replication_controllers
    }

    fn wanted(&self) -> i32 {
        self.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
    }

    fn selector(&self) -> Option<LabelSelector> {
        let labels = self.spec.as_ref()?.selector.clone()?;
        Some(LabelSelector { match_labels: Some(labels), match_expressions: None })
    }

    fn template(&self) -> Option<&PodTemplateSpec> {
        self.spec.as_ref()?.template.as_ref()
    }

    fn min_ready(&self) -> i32 {
        self.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0)
    }

    fn counts(&self) -> Option<Counts> {
        let status = self.status.as_ref()?;
        let mut conditions = status.conditions.iter().flatten();
        let failure = conditions.find(|condition| condition.type_ == FAILURE);
        Some(Counts {
            replicas: status.replicas,
            labelled: status.fully_labeled_replicas.unwrap_or(0),
            ready: status.ready_replicas.unwrap_or(0),
            available: status.available_replicas.unwrap_or(0),
            // This older kind does not tell.
            terminating: 0,
            generation: status.observed_generation,
            failure: failure.map(|one| {
                (one.message.clone().unwrap_or_default(), one.last_transition_time.clone())
            }),
        })
    }

    fn set_counts(&mut self, counts: Counts) {
        let failure = counts.failure.map(|(message, since)| ReplicationControllerCondition {
            type_: FAILURE.to_owned(),
            status: "True".to_owned(),
            reason: Some(REASON.to_owned()),
            message: Some(message),
            last_transition_time: since,
        });
        self.status = Some(ReplicationControllerStatus {
            replicas: counts.replicas,
            fully_labeled_replicas: shown(counts.labelled),
            ready_replicas: shown(counts.ready),
            available_replicas: shown(counts.available),
            observed_generation: counts.generation,
            conditions: failure.map(|condition| vec![condition]),
        });
    }
}
