//! Keeps as many pods of a template as are asked for: replica sets and replication controllers.

mod kinds;

use std::sync::Arc;

use bowline_api::informer::{Informer, Key};
use bowline_api::matching;
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, Time};
use kube::api::PostParams;
use kube::{Api, ResourceExt};
use serde::Serialize;

use crate::context::{Context, Error, Reconciled, seconds};
use crate::owners::{Namespaced, claim, controller_key, controller_of, controls};
use crate::pods;
use crate::queue::Queue;

/// A kind that asks for replicas.
pub(crate) trait Replicated: Namespaced + Serialize {
    fn cache(context: &Context) -> &Informer<Self>;
    fn wanted(&self) -> i32;
    fn selector(&self) -> Option<LabelSelector>;
    fn template(&self) -> Option<&PodTemplateSpec>;
    fn min_ready(&self) -> i32;
    /// The status as it is, if there is one.
    fn counts(&self) -> Option<Counts>;
    fn set_counts(&mut self, counts: Counts);
}

/// What the status says.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Counts {
    replicas: i32,
    labelled: i32,
    ready: i32,
    available: i32,
    terminating: i32,
    generation: Option<i64>,
    /// Pods could not be made or deleted: why, and since when.
    failure: Option<(String, Option<Time>)>,
}

pub(crate) fn watch<K: Replicated>(context: &Arc<Context>) -> Queue<Key> {
    let queue = Queue::new();
    let adds = queue.clone();
    K::cache(context).on_change(move |change| adds.add(Key::of(change.object().as_ref())));
    let (adds, weak) = (queue.clone(), Arc::downgrade(context));
    context.caches.pods.on_change(move |change| {
        for pod in change.sides() {
            if let Some(key) = controller_key(pod.as_ref(), &K::kind(&())) {
                adds.add(key);
            } else if let Some(context) = weak.upgrade()
                && controller_of(pod.as_ref()).is_none()
            {
                selecting::<K>(&context, pod).into_iter().for_each(|key| adds.add(key));
            }
        }
    });
    queue
}

/// Owners that would adopt an orphan.
fn selecting<K: Replicated>(context: &Context, pod: &Pod) -> Vec<Key> {
    let owners = K::cache(context).in_namespace(&pod.namespace().unwrap_or_default());
    let labels = pod.metadata.labels.as_ref();
    let selects = |owner: &Arc<K>| matching::selects(owner.selector().as_ref(), labels);
    owners.iter().filter(|owner| selects(owner)).map(|owner| Key::of(owner.as_ref())).collect()
}

pub(crate) async fn reconcile<K: Replicated>(context: Arc<Context>, key: Key) -> Reconciled {
    let Some(owner) = K::cache(&context).get(&key) else { return Ok(None) };
    let Some(selector) = owner.selector() else { return Ok(None) };
    let cache = &context.caches.pods;
    let all = claim(&context.client, cache, owner.as_ref(), Some(&selector)).await?;
    let leaving = owner.meta().deletion_timestamp.is_some();
    let active = all.into_iter().filter(|pod| pods::is_active(pod)).collect();
    let scaled = if leaving { Ok(()) } else { scale(&context, owner.as_ref(), active).await };
    // The status tells what is there now, this pass's own work included.
    let own = own_pods(&context, owner.as_ref());
    update_status(&context, &owner, &own, scaled.as_ref().err()).await?;
    scaled?;
    Ok(pods::next_available(&own, owner.min_ready(), context.now()))
}

fn own_pods<K: Replicated>(context: &Context, owner: &K) -> Vec<Arc<Pod>> {
    let mut pods = context.caches.pods.in_namespace(&owner.namespace().unwrap_or_default());
    pods.retain(|pod| !pods::is_ended(pod) && controls(owner, pod.as_ref()));
    pods
}

async fn scale<K: Replicated>(
    context: &Context,
    owner: &K,
    mut active: Vec<Arc<Pod>>,
) -> Result<(), Error> {
    let wanted = usize::try_from(owner.wanted()).unwrap_or(0);
    if active.len() < wanted {
        let Some(template) = owner.template() else { return Ok(()) };
        let missing = (wanted - active.len()).min(pods::BURST);
        let new = (0..missing).map(|_| pods::from_template(template, owner)).collect();
        return pods::create_all(context, owner, new).await;
    }
    let surplus = (active.len() - wanted).min(pods::BURST);
    if surplus > 0 && surplus < active.len() {
        pods::rank_for_deletion(&mut active);
    }
    pods::delete_all(context, owner, &active[..surplus]).await
}

fn counts_of<K: Replicated>(
    context: &Context,
    owner: &K,
    own: &[Arc<Pod>],
    failure: Option<&Error>,
) -> Counts {
    let template = owner.template().and_then(|template| template.metadata.as_ref());
    let template = template.and_then(|meta| meta.labels.as_ref());
    let (min_ready, now) = (owner.min_ready(), context.now());
    let (active, leaving): (Vec<_>, Vec<_>) = own.iter().partition(|pod| pods::is_active(pod));
    let number = |test: &dyn Fn(&Pod) -> bool| count(active.iter().filter(|pod| test(pod)).count());
    let labelled = |pod: &Pod| {
        let labels = pod.metadata.labels.as_ref();
        template
            .into_iter()
            .flatten()
            .all(|(key, value)| labels.is_some_and(|labels| labels.get(key) == Some(value)))
    };
    let since = owner.counts().and_then(|before| before.failure).and_then(|(_, since)| since);
    Counts {
        replicas: count(active.len()),
        labelled: number(&labelled),
        ready: number(&pods::is_ready),
        available: number(&|pod| pods::is_available(pod, min_ready, now)),
        terminating: count(leaving.len()),
        generation: owner.meta().generation,
        failure: failure.map(|error| (error.to_string(), since.or_else(|| Some(seconds(now))))),
    }
}

async fn update_status<K: Replicated>(
    context: &Context,
    owner: &Arc<K>,
    own: &[Arc<Pod>],
    failure: Option<&Error>,
) -> Result<(), Error> {
    let counts = counts_of(context, owner.as_ref(), own, failure);
    if owner.counts().as_ref() == Some(&counts) {
        return Ok(());
    }
    let api: Api<K> =
        Api::namespaced(context.client.clone(), &owner.namespace().unwrap_or_default());
    let mut changed = K::clone(owner);
    changed.set_counts(counts);
    let written = api.replace_status(&owner.name_any(), &PostParams::default(), &changed).await?;
    K::cache(context).observe(written);
    Ok(())
}

/// A number of pods as the API counts them.
pub(crate) fn count(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

/// Numbers that the API leaves out when they are zero.
pub(crate) fn shown(number: i32) -> Option<i32> {
    Some(number).filter(|number| *number != 0)
}
