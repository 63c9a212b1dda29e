//! The history of a daemon set's or stateful set's template: controller revisions, which
//! `kubectl rollout history` and `undo` read.

use std::sync::Arc;

use bowline_api::informer::Key;
use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use kube::api::{DeleteParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::json;

use crate::context::{Context, Error, is_code};
use crate::hash;
use crate::owners::{Namespaced, claim, controller_reference, controls};

/// Label of pods and revisions.
pub(crate) const HASH: &str = "controller-revision-hash";

/// Which revisions there are.
pub(crate) struct History {
    /// Of the current template.
    pub(crate) current: Arc<ControllerRevision>,
    /// All, the current one too, oldest first.
    pub(crate) all: Vec<Arc<ControllerRevision>>,
}

impl History {
    /// The hash that pods of the current template carry.
    pub(crate) fn hash(&self) -> String {
        hash_of(&self.current)
    }
}

pub(crate) fn hash_of(revision: &ControllerRevision) -> String {
    revision.labels().get(HASH).cloned().unwrap_or_default()
}

/// A patch that brings the template back, as kubectl applies it.
fn data(template: &PodTemplateSpec) -> serde_json::Value {
    let mut template = json!(template);
    if let Some(meta) = template.get_mut("metadata").and_then(|meta| meta.as_object_mut()) {
        meta.remove("creationTimestamp");
    }
    template["$patch"] = json!("replace");
    json!({"spec": {"template": template}})
}

/// The template that a revision holds.
pub(crate) fn template(revision: &ControllerRevision) -> Option<PodTemplateSpec> {
    let mut template = revision.data.as_ref()?.0.get("spec")?.get("template")?.clone();
    template.as_object_mut()?.remove("$patch");
    serde_json::from_value(template).ok()
}

/// Finds or makes the revision of `template` and gives it the highest number.
pub(crate) async fn sync<O: Namespaced>(
    context: &Context,
    owner: &O,
    selector: &LabelSelector,
    template: &PodTemplateSpec,
    collisions: Option<i32>,
) -> Result<History, Error> {
    let cache = &context.caches.revisions;
    let mut all = claim(&context.client, cache, owner, Some(selector)).await?;
    all.sort_by_key(|one| (one.revision, one.metadata.creation_timestamp.clone()));
    let wanted = data(template);
    let highest = all.last().map_or(0, |last| last.revision);
    let found = all.iter().rposition(|one| one.data.as_ref().is_some_and(|data| data.0 == wanted));
    let api: Api<ControllerRevision> =
        Api::namespaced(context.client.clone(), &owner.namespace().unwrap_or_default());
    let current = match found {
        Some(place) if all[place].revision == highest => Arc::clone(&all[place]),
        Some(place) => {
            let old = all.remove(place);
            let patch = Patch::Merge(json!({"revision": highest + 1}));
            let written = api.patch(&old.name_any(), &PatchParams::default(), &patch).await?;
            cache.observe(written.clone());
            let new = Arc::new(written);
            all.push(Arc::clone(&new));
            new
        }
        None => {
            let revision = new_revision(owner, template, collisions, highest + 1);
            let created = create(&api, owner, &revision).await?;
            cache.observe(created.clone());
            let new = Arc::new(created);
            all.push(Arc::clone(&new));
            new
        }
    };
    Ok(History { current, all })
}

fn new_revision<O: Namespaced>(
    owner: &O,
    template: &PodTemplateSpec,
    collisions: Option<i32>,
    number: i64,
) -> ControllerRevision {
    let hash = hash::of(template, collisions);
    let labels = template.metadata.as_ref().and_then(|meta| meta.labels.clone());
    let mut labels = labels.unwrap_or_default();
    labels.insert(HASH.to_owned(), hash.clone());
    let mut annotations = owner.annotations().clone();
    annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
    ControllerRevision {
        metadata: ObjectMeta {
            name: Some(format!("{}-{hash}", owner.name_any())),
            namespace: owner.namespace(),
            labels: Some(labels),
            annotations: Some(annotations),
            owner_references: Some(vec![controller_reference(owner)]),
            ..Default::default()
        },
        data: Some(RawExtension(data(template))),
        revision: number,
    }
}

async fn create<O: Namespaced>(
    api: &Api<ControllerRevision>,
    owner: &O,
    revision: &ControllerRevision,
) -> Result<ControllerRevision, Error> {
    match api.create(&PostParams::default(), revision).await {
        Err(error) if is_code(&error, 409) => {
            // Made by a pass whose answer was lost.
            let existing = api.get(&revision.name_any()).await?;
            if controls(owner, &existing) && existing.data == revision.data {
                return Ok(existing);
            }
            Err(error.into())
        }
        other => Ok(other?),
    }
}

/// Deletes the oldest revisions beyond `limit` that no pod is of any more.
pub(crate) async fn clean_up(
    context: &Context,
    history: &History,
    limit: Option<i32>,
    in_use: &[String],
) -> Result<(), Error> {
    let limit = usize::try_from(limit.unwrap_or(10)).unwrap_or(0);
    let current = history.current.uid();
    let unused: Vec<_> = history
        .all
        .iter()
        .filter(|one| one.uid() != current && !in_use.contains(&hash_of(one)))
        .collect();
    let surplus = unused.len().saturating_sub(limit);
    for revision in unused.into_iter().take(surplus) {
        let namespace = revision.namespace().unwrap_or_default();
        let api: Api<ControllerRevision> = Api::namespaced(context.client.clone(), &namespace);
        match api.delete(&revision.name_any(), &DeleteParams::default()).await {
            Ok(_) => {}
            Err(error) if is_code(&error, 404) => {}
            Err(error) => return Err(error.into()),
        }
        let key = Key::of(revision.as_ref());
        context.caches.revisions.forget(&key, &revision.uid().unwrap_or_default());
    }
    Ok(())
}
