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

/// The types differ in name alone, but for their selector and for the count of terminating pods:
/// `tell` reads it, `keep` writes it.
macro_rules! replicated {
    ($kind:ident, $status:ident, $condition:ident, $cache:ident,
     selector: $selector:expr, tell: $tell:expr, keep: $keep:expr) => {
        impl Replicated for $kind {
            fn cache(context: &Context) -> &Informer<Self> {
                &context.caches.$cache
            }

            fn wanted(&self) -> i32 {
                self.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
            }

            fn selector(&self) -> Option<LabelSelector> {
                $selector(self)
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
                    terminating: $tell(status),
                    generation: status.observed_generation,
                    failure: failure.map(|one| {
                        (one.message.clone().unwrap_or_default(), one.last_transition_time.clone())
                    }),
                })
            }

            fn set_counts(&mut self, counts: Counts) {
                let failure = counts.failure.map(|(message, since)| $condition {
                    type_: FAILURE.to_owned(),
                    status: "True".to_owned(),
                    reason: Some(REASON.to_owned()),
                    message: Some(message),
                    last_transition_time: since,
                });
                let status: &mut $status = self.status.get_or_insert_default();
                status.replicas = counts.replicas;
                status.fully_labeled_replicas = shown(counts.labelled);
                status.ready_replicas = shown(counts.ready);
                status.available_replicas = shown(counts.available);
                status.observed_generation = counts.generation;
                status.conditions = failure.map(|condition| vec![condition]);
                $keep(status, counts.terminating);
            }
        }
    };
}

replicated!(
    ReplicaSet, ReplicaSetStatus, ReplicaSetCondition, replica_sets,
    selector: |set: &ReplicaSet| set.spec.as_ref().map(|spec| spec.selector.clone()),
    tell: |status: &ReplicaSetStatus| status.terminating_replicas.unwrap_or(0),
    keep: |status: &mut ReplicaSetStatus, pods| status.terminating_replicas = Some(pods)
);

// The older kind does not tell how many pods terminate.
replicated!(
    ReplicationController, ReplicationControllerStatus, ReplicationControllerCondition,
    replication_controllers,
    selector: |owner: &ReplicationController| {
        let labels = owner.spec.as_ref()?.selector.clone()?;
        Some(LabelSelector { match_labels: Some(labels), match_expressions: None })
    },
    tell: |_| 0,
    keep: |_, _| {}
);
