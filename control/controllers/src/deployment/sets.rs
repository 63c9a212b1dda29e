//! A deployment's replica sets: which is the new one, its name, its revision, its annotations.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use kube::ResourceExt;
use kube::api::ObjectMeta;

use crate::hash;
use crate::owners::controller_reference;

pub(crate) const HASH_LABEL: &str = "pod-template-hash";
pub(crate) const REVISION: &str = "deployment.kubernetes.io/revision";
const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
/// The deployment's size when the set was scaled last: a difference is a scale of the deployment.
pub(crate) const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
pub(crate) const MAXIMUM: &str = "deployment.kubernetes.io/max-replicas";
/// Annotations of the deployment that say nothing about its replica sets.
const NOT_COPIED: [&str; 6] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    REVISION_HISTORY,
    DESIRED,
    MAXIMUM,
    "deprecated.deployment.rollback.to",
];

pub(crate) fn wanted(set: &ReplicaSet) -> i32 {
    set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

pub(crate) fn revision(set: &ReplicaSet) -> i64 {
    set.annotations().get(REVISION).and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn bare(template: &PodTemplateSpec) -> PodTemplateSpec {
    let mut template = template.clone();
    if let Some(meta) = &mut template.metadata {
        if let Some(labels) = &mut meta.labels {
            labels.remove(HASH_LABEL);
            if labels.is_empty() {
                meta.labels = None;
            }
        }
        meta.creation_timestamp = None;
    }
    template.metadata = template.metadata.filter(|meta| *meta != ObjectMeta::default());
    template
}

pub(crate) fn same_template(set: &ReplicaSet, deployment: &Deployment) -> bool {
    let Some(wanted) = deployment.spec.as_ref().map(|spec| &spec.template) else { return false };
    let have = set.spec.as_ref().and_then(|spec| spec.template.as_ref());
    have.is_some_and(|have| bare(have) == bare(wanted))
}

/// The set of the current template (the oldest, should there be two) and all others, oldest first.
pub(crate) fn split(
    deployment: &Deployment,
    mut sets: Vec<Arc<ReplicaSet>>,
) -> (Option<Arc<ReplicaSet>>, Vec<Arc<ReplicaSet>>) {
    sets.sort_by(|a, b| {
        let age = |set: &ReplicaSet| set.metadata.creation_timestamp.clone();
        age(a).cmp(&age(b)).then_with(|| a.metadata.name.cmp(&b.metadata.name))
    });
    let place = sets.iter().position(|set| same_template(set, deployment));
    let new = place.map(|place| sets.remove(place));
    (new, sets)
}

/// A replica set for the current template.
pub(crate) fn new_set(
    deployment: &Deployment,
    replicas: i32,
    revision: i64,
    maximum: i32,
) -> ReplicaSet {
    let spec = deployment.spec.clone().unwrap_or_default();
    let collisions = deployment.status.as_ref().and_then(|status| status.collision_count);
    let hash = hash::of(&bare(&spec.template), collisions);
    let mut template = spec.template;
    let label = |labels: &mut Option<BTreeMap<String, String>>| {
        labels.get_or_insert_default().insert(HASH_LABEL.to_owned(), hash.clone());
    };
    label(&mut template.metadata.get_or_insert_default().labels);
    let mut selector = spec.selector;
    label(&mut selector.match_labels);
    let labels = template.metadata.as_ref().and_then(|meta| meta.labels.clone());
    let mut set = ReplicaSet {
        metadata: ObjectMeta {
            name: Some(format!("{}-{hash}", deployment.name_any())),
            namespace: deployment.namespace(),
            labels,
            owner_references: Some(vec![controller_reference(deployment)]),
            ..Default::default()
        },
        spec: Some(ReplicaSetSpec {
            replicas: Some(replicas),
            min_ready_seconds: spec.min_ready_seconds,
            selector,
            template: Some(template),
        }),
        status: None,
    };
    annotate(&mut set, deployment, revision);
    note_size(&mut set, spec.replicas.unwrap_or(1), maximum);
    set
}

/// Copies the deployment's annotations and sets the revision; true if that changed anything.
pub(crate) fn annotate(set: &mut ReplicaSet, deployment: &Deployment, revision: i64) -> bool {
    let before = set.annotations().clone();
    let annotations = set.annotations_mut();
    for (key, value) in deployment.annotations() {
        if !NOT_COPIED.contains(&key.as_str()) {
            annotations.insert(key.clone(), value.clone());
        }
    }
    let old = annotations.get(REVISION).cloned();
    let old_number = old.as_ref().and_then(|text| text.parse::<i64>().ok()).unwrap_or(0);
    if old_number < revision {
        annotations.insert(REVISION.to_owned(), revision.to_string());
        if let Some(old) = old {
            let history = annotations.entry(REVISION_HISTORY.to_owned()).or_default();
            if !history.is_empty() {
                history.push(',');
            }
            history.push_str(&old);
        }
    }
    *annotations != before
}

/// Notes the deployment's size that the set was scaled for; true if that changed anything.
pub(crate) fn note_size(set: &mut ReplicaSet, desired: i32, maximum: i32) -> bool {
    let annotations = set.annotations_mut();
    let desired =
        annotations.insert(DESIRED.to_owned(), desired.to_string()) != Some(desired.to_string());
    let maximum =
        annotations.insert(MAXIMUM.to_owned(), maximum.to_string()) != Some(maximum.to_string());
    desired || maximum
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deployment() -> Deployment {
        serde_json::from_value(serde_json::json!({
            "metadata": {"name": "web", "namespace": "default", "uid": "1",
                "annotations": {"team": "a", REVISION: "7"}},
            "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "web"}}, "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "web", "image": "web:1"}]}}}
        }))
        .expect("a valid deployment")
    }

    #[test]
    fn a_new_set_carries_the_hash_everywhere_and_is_found_again() {
        let deployment = deployment();
        let set = new_set(&deployment, 3, 2, 4);
        let hash = set.labels()[HASH_LABEL].clone();
        assert_eq!(set.name_any(), format!("web-{hash}"));
        let spec = set.spec.clone().expect("spec");
        assert_eq!(spec.selector.match_labels.expect("labels")[HASH_LABEL], hash);
        assert_eq!(set.annotations()["team"], "a");
        assert_eq!(set.annotations()[REVISION], "2", "the deployment's revision is not copied");
        let (new, old) = split(&deployment, vec![Arc::new(set)]);
        assert!(new.is_some() && old.is_empty());
    }

    #[test]
    fn another_template_or_a_collision_gets_another_name() {
        let one = new_set(&deployment(), 1, 1, 1).name_any();
        let mut other = deployment();
        other.status.get_or_insert_default().collision_count = Some(1);
        assert_ne!(one, new_set(&other, 1, 1, 1).name_any());
        let mut other = deployment();
        other.spec.as_mut().expect("spec").template.spec.as_mut().expect("spec").containers[0]
            .image = Some("web:2".to_owned());
        assert_ne!(one, new_set(&other, 1, 1, 1).name_any());
    }

    #[test]
    fn a_rollback_keeps_the_history_of_revisions() {
        let mut set = new_set(&deployment(), 1, 1, 1);
        assert!(annotate(&mut set, &deployment(), 3));
        assert!(annotate(&mut set, &deployment(), 5));
        assert!(!annotate(&mut set, &deployment(), 5));
        assert_eq!(set.annotations()[REVISION_HISTORY], "1,3");
    }
}
