//! Runs pods that keep their name, their place in the order and their volumes.

mod plan;

use std::collections::BTreeMap;
use std::sync::Arc;

use bowline_api::informer::Key;
use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetSpec, StatefulSetStatus};
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimVolumeSource, Pod, Volume,
};
use kube::api::PostParams;
use kube::{Api, ResourceExt};

use self::plan::{Plan, Revisions, View, ordinal, ordinals, revision};
use crate::context::{Context, Error, Reconciled, is_code};
use crate::owners::{claim, controller_key, controller_reference};
use crate::pods;
use crate::queue::Queue;
use crate::replicas::{count, shown};
use crate::revisions::{self, HASH, History};

const POD_NAME: &str = "statefulset.kubernetes.io/pod-name";
const POD_INDEX: &str = "apps.kubernetes.io/pod-index";

pub(crate) fn watch(context: &Arc<Context>) -> Queue<Key> {
    let queue = Queue::new();
    let adds = queue.clone();
    context
        .caches
        .stateful_sets
        .on_change(move |change| adds.add(Key::of(change.object().as_ref())));
    let adds = queue.clone();
    context.caches.pods.on_change(move |change| {
        for pod in change.sides() {
            if let Some(key) = controller_key(pod.as_ref(), "StatefulSet") {
                adds.add(key);
            }
        }
    });
    queue
}

pub(crate) async fn reconcile(context: Arc<Context>, key: Key) -> Reconciled {
    let Some(set) = context.caches.stateful_sets.get(&key) else { return Ok(None) };
    let Some(spec) = set.spec.clone() else { return Ok(None) };
    if set.metadata.deletion_timestamp.is_some() {
        return Ok(None);
    }
    let selector = &spec.selector;
    let collisions = set.status.as_ref().and_then(|status| status.collision_count);
    let history =
        revisions::sync(&context, set.as_ref(), selector, &spec.template, collisions).await?;
    let mut pass = Pass { context: &context, revisions: revisions_of(&set, &history), set, spec };
    let pods = pass.pods().await?;
    let view = View {
        set: &pass.set,
        spec: &pass.spec,
        pods: &pods,
        revisions: &pass.revisions,
        now: context.now(),
    };
    let plan = view.plan();
    let done = pass.carry_out(plan, &history).await;
    let pods = pass.pods().await?;
    pass.update_status(&pods).await?;
    done?;
    let in_use: Vec<String> = pods.values().map(|pod| hash_part(&pass, revision(pod))).collect();
    let limit = pass.spec.revision_history_limit;
    revisions::clean_up(&context, &history, limit, &in_use).await?;
    let min_ready = pass.spec.min_ready_seconds.unwrap_or(0);
    Ok(pods::next_available(pods.values(), min_ready, context.now()))
}

/// The hash at the end of a revision's name.
fn hash_part(pass: &Pass<'_>, revision: &str) -> String {
    let prefix = format!("{}-", pass.set.name_any());
    revision.strip_prefix(&prefix).unwrap_or(revision).to_owned()
}

/// A set's pods carry the revision's whole name; the first revision is both.
fn revisions_of(set: &StatefulSet, history: &History) -> Revisions {
    let update = history.current.name_any();
    let current = set.status.as_ref().and_then(|status| status.current_revision.clone());
    let known = |name: &String| history.all.iter().any(|one| one.name_any() == *name);
    let current = current.filter(known).unwrap_or_else(|| update.clone());
    Revisions { current, update }
}

struct Pass<'c> {
    context: &'c Context,
    set: Arc<StatefulSet>,
    spec: StatefulSetSpec,
    revisions: Revisions,
}

impl Pass<'_> {
    async fn pods(&self) -> Result<BTreeMap<i32, Arc<Pod>>, Error> {
        let (client, cache) = (&self.context.client, &self.context.caches.pods);
        let set = self.set.as_ref();
        let pods = claim(client, cache, set, Some(&self.spec.selector)).await?;
        let name = set.name_any();
        Ok(pods.into_iter().filter_map(|pod| Some((ordinal(&name, &pod)?, pod))).collect())
    }

    async fn carry_out(&self, plan: Plan, history: &History) -> Result<(), Error> {
        pods::delete_all(self.context, self.set.as_ref(), &plan.delete).await?;
        for (ordinal, new) in plan.create.into_iter().take(pods::BURST) {
            self.ensure_claims(ordinal).await?;
            let pod = self.pod(ordinal, new, history);
            match pods::create(self.context, self.set.as_ref(), pod).await {
                Ok(_) => {}
                // Its name is its own: the old one is on its way out.
                Err(Error::Api(error)) if is_code(&error, 409) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn pod(&self, ordinal: i32, new: bool, history: &History) -> Pod {
        let old = history.all.iter().find(|one| one.name_any() == self.revisions.current);
        let (template, revision) =
            match old.filter(|_| !new).and_then(|one| revisions::template(one)) {
                Some(template) => (template, self.revisions.current.clone()),
                None => (self.spec.template.clone(), self.revisions.update.clone()),
            };
        let mut pod = pods::from_template(&template, self.set.as_ref());
        let name = format!("{}-{ordinal}", self.set.name_any());
        pod.metadata.generate_name = None;
        pod.metadata.name = Some(name.clone());
        let labels = pod.labels_mut();
        labels.insert(HASH.to_owned(), revision);
        labels.insert(POD_NAME.to_owned(), name.clone());
        labels.insert(POD_INDEX.to_owned(), ordinal.to_string());
        let spec = pod.spec.get_or_insert_default();
        spec.hostname = Some(name);
        spec.subdomain = self.spec.service_name.clone().filter(|name| !name.is_empty());
        let volumes = spec.volumes.get_or_insert_default();
        for claim in self.spec.volume_claim_templates.iter().flatten() {
            let volume = Volume {
                name: claim.name_any(),
                persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
                    claim_name: self.claim_name(claim, ordinal),
                    read_only: None,
                }),
                ..Default::default()
            };
            volumes.retain(|other| other.name != volume.name);
            volumes.push(volume);
        }
        pod
    }

    fn claim_name(&self, claim: &PersistentVolumeClaim, ordinal: i32) -> String {
        format!("{}-{}-{ordinal}", claim.name_any(), self.set.name_any())
    }

    /// Claims outlive their pods, and the set too unless it says otherwise.
    async fn ensure_claims(&self, ordinal: i32) -> Result<(), Error> {
        let namespace = self.set.namespace().unwrap_or_default();
        let api: Api<PersistentVolumeClaim> =
            Api::namespaced(self.context.client.clone(), &namespace);
        let policy = self.spec.persistent_volume_claim_retention_policy.clone();
        let owned = policy.unwrap_or_default().when_deleted.as_deref() == Some("Delete");
        for template in self.spec.volume_claim_templates.iter().flatten() {
            let mut claim = template.clone();
            claim.metadata.name = Some(self.claim_name(template, ordinal));
            claim.metadata.namespace = Some(namespace.clone());
            let own = self.spec.selector.match_labels.clone().unwrap_or_default();
            claim.labels_mut().extend(own);
            if owned {
                claim.metadata.owner_references =
                    Some(vec![controller_reference(self.set.as_ref())]);
            }
            claim.status = None;
            match api.create(&PostParams::default(), &claim).await {
                Ok(_) => {}
                Err(error) if is_code(&error, 409) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    async fn update_status(&mut self, pods: &BTreeMap<i32, Arc<Pod>>) -> Result<(), Error> {
        let status = self.status(pods);
        if self.set.status.as_ref() == Some(&status) {
            return Ok(());
        }
        let namespace = self.set.namespace().unwrap_or_default();
        let api: Api<StatefulSet> = Api::namespaced(self.context.client.clone(), &namespace);
        let mut changed = StatefulSet::clone(&self.set);
        changed.status = Some(status);
        let name = self.set.name_any();
        let written = api.replace_status(&name, &PostParams::default(), &changed).await?;
        self.context.caches.stateful_sets.observe(written.clone());
        self.set = Arc::new(written);
        Ok(())
    }

    fn status(&self, pods: &BTreeMap<i32, Arc<Pod>>) -> StatefulSetStatus {
        let (min_ready, now) = (self.spec.min_ready_seconds.unwrap_or(0), self.context.now());
        let number =
            |test: &dyn Fn(&Pod) -> bool| count(pods.values().filter(|pod| test(pod)).count());
        let alive = |pod: &Pod| pods::is_active(pod);
        let of = |name: &str| {
            let name = name.to_owned();
            move |pod: &Pod| pods::is_active(pod) && revision(pod) == name
        };
        let replicas = number(&alive);
        let ready = number(&|pod| alive(pod) && pods::is_ready(pod));
        let updated = number(&of(&self.revisions.update));
        let wanted = ordinals(&self.spec);
        let mut current = self.revisions.current.clone();
        // Everything is of the new revision and ready: what was to be, is.
        let whole = wanted.end - wanted.start;
        if updated == whole && ready == whole && replicas == whole {
            current.clone_from(&self.revisions.update);
        }
        let old = self.set.status.as_ref();
        StatefulSetStatus {
            available_replicas: Some(number(&|pod| {
                alive(pod) && pods::is_available(pod, min_ready, now)
            })),
            collision_count: old.and_then(|status| status.collision_count),
            conditions: old.and_then(|status| status.conditions.clone()),
            current_replicas: shown(number(&of(&current))),
            current_revision: Some(current),
            observed_generation: self.set.metadata.generation,
            ready_replicas: shown(ready),
            replicas,
            update_revision: Some(self.revisions.update.clone()),
            updated_replicas: shown(updated),
        }
    }
}
