//! Rolls a deployment's template out over replica sets.
//!
//! Each pass reads the sets, takes one step of the roll-out ([`rolling`] says how far), and writes
//! what it sees into the status. The replica set controller's status updates call the next pass.

mod rolling;
mod sets;
mod status;

use std::sync::Arc;

use bowline_api::events::Severity;
use bowline_api::informer::Key;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, ReplicaSet};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::json;

use self::rolling::Limits;
use self::status::Step;
use crate::context::{Context, Error, Reconciled, is_code};
use crate::owners::{claim, controller_key, controls};
use crate::pods;
use crate::queue::Queue;

pub(crate) use self::rolling::{Round, scaled};

/// As the API defaults `revisionHistoryLimit`.
const HISTORY: i32 = 10;

pub(crate) fn watch(context: &Arc<Context>) -> Queue<Key> {
    let queue = Queue::new();
    let adds = queue.clone();
    context.caches.deployments.on_change(move |change| adds.add(Key::of(change.object().as_ref())));
    let (adds, weak) = (queue.clone(), Arc::downgrade(context));
    context.caches.replica_sets.on_change(move |change| {
        for set in change.sides() {
            if let Some(key) = controller_key(set.as_ref(), "Deployment") {
                adds.add(key);
            } else if let Some(context) = weak.upgrade() {
                let namespace = set.namespace().unwrap_or_default();
                for deployment in context.caches.deployments.in_namespace(&namespace) {
                    adds.add(Key::of(deployment.as_ref()));
                }
            }
        }
    });
    // The strategy Recreate waits for the last old pod.
    let (adds, weak) = (queue.clone(), Arc::downgrade(context));
    context.caches.pods.on_change(move |change| {
        let gone = change.new.as_ref().is_none_or(|pod| !pods::is_active(pod));
        if gone
            && let Some(context) = weak.upgrade()
            && let Some(set) = controller_key(change.object().as_ref(), "ReplicaSet")
            && let Some(set) = context.caches.replica_sets.get(&set)
            && let Some(key) = controller_key(set.as_ref(), "Deployment")
        {
            adds.add(key);
        }
    });
    queue
}

pub(crate) async fn reconcile(context: Arc<Context>, key: Key) -> Reconciled {
    let Some(deployment) = context.caches.deployments.get(&key) else { return Ok(None) };
    let Some(spec) = deployment.spec.clone() else { return Ok(None) };
    let sets = &context.caches.replica_sets;
    let selector = Some(&spec.selector);
    let owned = claim(&context.client, sets, deployment.as_ref(), selector).await?;
    let (new, old) = sets::split(&deployment, owned);
    let mut rollout = Rollout { context: &context, deployment, spec, new, old, step: Step::None };
    if rollout.deployment.metadata.deletion_timestamp.is_none() {
        rollout.advance().await?;
    }
    rollout.update_status().await?;
    Ok(status::until_late(&rollout.deployment, context.now()))
}

/// One pass over one deployment; `new` and `old` follow what it writes.
struct Rollout<'c> {
    context: &'c Context,
    deployment: Arc<Deployment>,
    spec: DeploymentSpec,
    new: Option<Arc<ReplicaSet>>,
    /// Oldest first.
    old: Vec<Arc<ReplicaSet>>,
    step: Step,
}

impl Rollout<'_> {
    async fn advance(&mut self) -> Result<(), Error> {
        let recreate = self.spec.strategy.as_ref().and_then(|one| one.type_.as_deref());
        let recreate = recreate == Some("Recreate");
        if self.spec.paused == Some(true) {
            self.follow_revision().await?;
            return self.scale_in_proportion().await;
        }
        if self.was_scaled() {
            self.follow_revision().await?;
            self.scale_in_proportion().await?;
        }
        if recreate {
            self.recreate().await?;
        } else {
            self.roll().await?;
        }
        self.clean_up().await
    }

    async fn roll(&mut self) -> Result<(), Error> {
        let limits = Limits::of(&self.spec);
        self.ensure_new().await?;
        let Some(new) = self.new.clone() else { return Ok(()) };
        let old: Vec<_> = self.old.iter().map(|set| numbers(set)).collect();
        let size = rolling::grow(&limits, numbers(&new), &old);
        let new = self.scale(&new, size).await?;
        self.new = Some(Arc::clone(&new));
        let sizes = rolling::shrink(&limits, numbers(&new), &old);
        for (place, size) in sizes.into_iter().enumerate() {
            let set = Arc::clone(&self.old[place]);
            self.old[place] = self.scale(&set, size).await?;
        }
        Ok(())
    }

    async fn recreate(&mut self) -> Result<(), Error> {
        for place in 0..self.old.len() {
            let set = Arc::clone(&self.old[place]);
            self.old[place] = self.scale(&set, 0).await?;
        }
        let namespace = self.deployment.namespace().unwrap_or_default();
        let pods = self.context.caches.pods.in_namespace(&namespace);
        let remains = pods.iter().any(|pod| {
            !pods::is_ended(pod) && self.old.iter().any(|set| controls(set.as_ref(), pod.as_ref()))
        });
        if remains {
            return Ok(());
        }
        self.ensure_new().await?;
        if let Some(new) = self.new.clone() {
            self.new = Some(self.scale(&new, self.spec.replicas.unwrap_or(1)).await?);
        }
        Ok(())
    }

    /// Whether the deployment's size changed since its sets were sized.
    fn was_scaled(&self) -> bool {
        let wanted = self.spec.replicas.unwrap_or(1).to_string();
        self.all().iter().filter(|set| sets::wanted(set) > 0).any(|set| {
            set.annotations().get(sets::DESIRED).is_some_and(|desired| *desired != wanted)
        })
    }

    fn all(&self) -> Vec<Arc<ReplicaSet>> {
        self.new.iter().chain(self.old.iter().rev()).cloned().collect()
    }

    async fn scale_in_proportion(&mut self) -> Result<(), Error> {
        let wanted = self.spec.replicas.unwrap_or(1);
        let active: Vec<_> = self.all().into_iter().filter(|set| sets::wanted(set) > 0).collect();
        let saturated = self.new.as_ref().is_some_and(|new| {
            let have = numbers(new);
            have.wanted == wanted && have.available == wanted
        });
        let sizes: Vec<(Arc<ReplicaSet>, i32)> = match active.as_slice() {
            [] => self.all().into_iter().take(1).map(|set| (set, wanted)).collect(),
            [one] => vec![(Arc::clone(one), wanted)],
            many if saturated => {
                let uid = self.new.as_ref().and_then(|new| new.uid());
                let keep = |set: &ReplicaSet| if set.uid() == uid { wanted } else { 0 };
                many.iter().map(|set| (Arc::clone(set), keep(set))).collect()
            }
            many => {
                let now: Vec<i32> = many.iter().map(|set| sets::wanted(set)).collect();
                let next = rolling::proportional(&now, Limits::of(&self.spec).max_total());
                many.iter().cloned().zip(next).collect()
            }
        };
        for (set, size) in sizes {
            let scaled = self.scale(&set, size).await?;
            let same = |one: &&mut Arc<ReplicaSet>| one.uid() == scaled.uid();
            if let Some(place) = self.new.iter_mut().chain(&mut self.old).find(same) {
                *place = scaled;
            }
        }
        Ok(())
    }

    fn next_revision(&self) -> i64 {
        self.old.iter().map(|set| sets::revision(set)).max().unwrap_or(0) + 1
    }

    /// Gives the new set, if there is one, the highest revision, and the deployment the same.
    async fn follow_revision(&mut self) -> Result<(), Error> {
        let Some(new) = self.new.clone() else { return Ok(()) };
        let mut changed = ReplicaSet::clone(&new);
        let min_ready = self.spec.min_ready_seconds;
        let differs = new
            .spec
            .as_ref()
            .is_some_and(|spec| spec.min_ready_seconds.unwrap_or(0) != min_ready.unwrap_or(0));
        if sets::annotate(&mut changed, &self.deployment, self.next_revision()) || differs {
            let patch = json!({
                "metadata": {
                    "resourceVersion": new.resource_version(),
                    "annotations": changed.annotations(),
                },
                "spec": {"minReadySeconds": min_ready.unwrap_or(0)},
            });
            self.new = Some(self.patch(&new, patch).await?);
        }
        let revision = self.new.as_ref().map(|set| sets::revision(set)).unwrap_or_default();
        self.set_revision(revision).await
    }

    async fn set_revision(&mut self, revision: i64) -> Result<(), Error> {
        let revision = revision.to_string();
        if self.deployment.annotations().get(sets::REVISION) == Some(&revision) {
            return Ok(());
        }
        let patch = json!({"metadata": {"annotations": {sets::REVISION: revision}}});
        let api = self.deployments();
        let name = self.deployment.name_any();
        let changed = api.patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await?;
        self.context.caches.deployments.observe(changed.clone());
        self.deployment = Arc::new(changed);
        Ok(())
    }

    /// Makes the set of the current template if it is missing.
    async fn ensure_new(&mut self) -> Result<(), Error> {
        if self.new.is_some() {
            return self.follow_revision().await;
        }
        let limits = Limits::of(&self.spec);
        let old: Vec<_> = self.old.iter().map(|set| numbers(set)).collect();
        let size = rolling::grow(&limits, rolling::Set { wanted: 0, available: 0 }, &old);
        let revision = self.next_revision();
        let set = sets::new_set(&self.deployment, size, revision, limits.max_total());
        let name = set.name_any();
        match self.replica_sets().create(&PostParams::default(), &set).await {
            Ok(set) => {
                self.context.caches.replica_sets.observe(set.clone());
                self.new = Some(Arc::new(set));
                self.step = Step::Created;
                if size > 0 {
                    self.tell_scaled("up", &name, 0, size);
                }
                self.set_revision(revision).await
            }
            Err(error) if is_code(&error, 409) => self.resolve_collision(&name).await,
            Err(error) => {
                let text = format!("Failed to create new replica set \"{name}\": {error}");
                let (recorder, deployment) = (&self.context.recorder, self.deployment.as_ref());
                let reason = "ReplicaSetCreateError";
                recorder.event(deployment, Severity::Warning, reason, text);
                Err(error.into())
            }
        }
    }

    /// Another object has the new set's name: ours that the cache lacks yet, or another template's
    /// (or owner's), which the collision count tells apart.
    async fn resolve_collision(&mut self, name: &str) -> Result<(), Error> {
        let existing = self.replica_sets().get(name).await?;
        if controls(self.deployment.as_ref(), &existing)
            && sets::same_template(&existing, &self.deployment)
        {
            self.context.caches.replica_sets.observe(existing.clone());
            self.new = Some(Arc::new(existing));
            return Ok(());
        }
        let mut changed = Deployment::clone(&self.deployment);
        let count = changed.status.get_or_insert_default().collision_count.get_or_insert(0);
        *count += 1;
        let written = self.write_status(&changed).await?;
        self.deployment = Arc::new(written);
        Err(Error::Other(format!("the name {name} is taken; another hash is tried")))
    }

    async fn scale(&self, set: &Arc<ReplicaSet>, size: i32) -> Result<Arc<ReplicaSet>, Error> {
        let now = sets::wanted(set);
        let mut noted = ReplicaSet::clone(set);
        let limits = Limits::of(&self.spec);
        let annotated = sets::note_size(&mut noted, limits.wanted, limits.max_total());
        if now == size && !(annotated && size > 0) {
            return Ok(Arc::clone(set));
        }
        let patch = json!({
            "metadata": {
                "resourceVersion": set.resource_version(),
                "annotations": noted.annotations(),
            },
            "spec": {"replicas": size},
        });
        let scaled = self.patch(set, patch).await?;
        if now != size {
            self.tell_scaled(if size > now { "up" } else { "down" }, &set.name_any(), now, size);
        }
        Ok(scaled)
    }

    fn tell_scaled(&self, direction: &str, name: &str, from: i32, to: i32) {
        let text = format!("Scaled {direction} replica set {name} from {from} to {to}");
        let (recorder, deployment) = (&self.context.recorder, self.deployment.as_ref());
        recorder.event(deployment, Severity::Normal, "ScalingReplicaSet", text);
    }

    async fn patch(
        &self,
        set: &ReplicaSet,
        patch: serde_json::Value,
    ) -> Result<Arc<ReplicaSet>, Error> {
        let api = self.replica_sets();
        let parameters = PatchParams::default();
        let changed = api.patch(&set.name_any(), &parameters, &Patch::Merge(patch)).await?;
        self.context.caches.replica_sets.observe(changed.clone());
        Ok(Arc::new(changed))
    }

    /// Deletes the oldest empty sets beyond the history limit.
    async fn clean_up(&self) -> Result<(), Error> {
        let limit = self.spec.revision_history_limit.unwrap_or(HISTORY);
        let mut empty: Vec<_> = self.old.iter().filter(|set| is_empty(set)).collect();
        let surplus = self.old.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
        empty.sort_by_key(|set| sets::revision(set));
        for set in empty.into_iter().take(surplus) {
            let parameters = DeleteParams::background();
            match self.replica_sets().delete(&set.name_any(), &parameters).await {
                Ok(_) => {}
                Err(error) if is_code(&error, 404) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    async fn update_status(&mut self) -> Result<(), Error> {
        let old: Vec<&ReplicaSet> = self.old.iter().map(Arc::as_ref).collect();
        let new = self.new.as_deref();
        let status = status::next(&self.deployment, new, &old, self.step, self.context.now());
        if self.deployment.status.as_ref() != Some(&status) {
            let mut changed = Deployment::clone(&self.deployment);
            changed.status = Some(status);
            self.deployment = Arc::new(self.write_status(&changed).await?);
        }
        Ok(())
    }

    async fn write_status(&self, deployment: &Deployment) -> Result<Deployment, Error> {
        let api = self.deployments();
        let parameters = PostParams::default();
        let written = api.replace_status(&deployment.name_any(), &parameters, deployment).await?;
        self.context.caches.deployments.observe(written.clone());
        Ok(written)
    }

    fn deployments(&self) -> Api<Deployment> {
        let namespace = self.deployment.namespace().unwrap_or_default();
        Api::namespaced(self.context.client.clone(), &namespace)
    }

    fn replica_sets(&self) -> Api<ReplicaSet> {
        let namespace = self.deployment.namespace().unwrap_or_default();
        Api::namespaced(self.context.client.clone(), &namespace)
    }
}

fn numbers(set: &ReplicaSet) -> rolling::Set {
    let available = set.status.as_ref().and_then(|status| status.available_replicas).unwrap_or(0);
    rolling::Set { wanted: sets::wanted(set), available }
}

/// Nothing runs or is asked for, and the set's controller has seen that.
fn is_empty(set: &ReplicaSet) -> bool {
    let status = set.status.clone().unwrap_or_default();
    sets::wanted(set) == 0
        && status.replicas == 0
        && status.observed_generation == set.metadata.generation
        && set.metadata.deletion_timestamp.is_none()
}
