//! Deletes objects whose owners are gone, and carries out foreground and orphan deletion.
//!
//! Every kind that can be deleted is watched by its metadata alone; kinds come from discovery,
//! which is asked again now and then. Before anything is deleted for want of an owner, the owner
//! is asked for at the apiserver: the watches may be behind.

mod graph;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bowline_api::chain::chain;
use bowline_api::retry::Retry;
use futures::StreamExt;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{
    ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, Preconditions, PropagationPolicy,
};
use kube::core::PartialObjectMeta;
use kube::discovery::{ApiCapabilities, Scope, verbs};
use kube::runtime::watcher::{Config, Event};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use parking_lot::{Mutex, RwLock};
use serde_json::json;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::graph::{FOREGROUND, Graph, ORPHAN, Object};
use crate::context::{Context, Error, Reconciled, is_code};
use crate::discovery;
use crate::queue::Queue;

/// How often new kinds are looked for; the first look may come before the apiserver serves.
const DISCOVER_EVERY: Duration = Duration::from_secs(30);
const DISCOVER_AGAIN: Duration = Duration::from_millis(250);
/// Owns nothing, is owned by nothing, and comes in masses.
const IGNORED: &str = "Event";

#[derive(Clone)]
struct Kind {
    resource: ApiResource,
    namespaced: bool,
}

/// What the watches and the reconciler share.
#[derive(Default)]
pub(crate) struct Collector {
    graph: Mutex<Graph>,
    /// Grows only; objects name their kind by its place.
    kinds: RwLock<Vec<Kind>>,
}

/// Follows all kinds until `shutdown`; keys of `queue` are UIDs.
pub(crate) async fn follow(
    client: Client,
    collector: Arc<Collector>,
    queue: Queue<String>,
    shutdown: CancellationToken,
) {
    let mut watches = JoinSet::new();
    loop {
        let pause = match discovery::kinds(&client).await {
            Ok(kinds) => {
                for (place, kind) in collector.learn(kinds) {
                    let watch = Watch {
                        place,
                        collector: Arc::clone(&collector),
                        queue: queue.clone(),
                        listed: HashMap::new(),
                    };
                    watches.spawn(watch.run(client.clone(), kind, shutdown.clone()));
                }
                DISCOVER_EVERY
            }
            Err(error) => {
                tracing::debug!(%error, "garbage collector: discovery failed");
                DISCOVER_AGAIN
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

impl Collector {
    /// The kinds that were not known yet.
    fn learn(&self, found: Vec<(ApiResource, ApiCapabilities)>) -> Vec<(usize, Kind)> {
        let mut kinds = self.kinds.write();
        let mut new = Vec::new();
        for (resource, capabilities) in found {
            let can = |verb| capabilities.supports_operation(verb);
            let known = kinds.iter().any(|kind| {
                kind.resource.group == resource.group && kind.resource.plural == resource.plural
            });
            let ignored = resource.kind == IGNORED;
            let usable = can(verbs::DELETE) && can(verbs::LIST) && can(verbs::WATCH);
            if known || ignored || !usable {
                continue;
            }
            let namespaced = capabilities.scope == Scope::Namespaced;
            kinds.push(Kind { resource, namespaced });
            new.extend(kinds.last().cloned().map(|kind| (kinds.len() - 1, kind)));
        }
        new
    }

    fn kind(&self, place: usize) -> Option<Kind> {
        self.kinds.read().get(place).cloned()
    }

    /// The kind that an owner reference names, whatever its version.
    fn kind_of(&self, owner: &OwnerReference) -> Option<Kind> {
        let group = owner.api_version.rsplit_once('/').map_or("", |(group, _)| group);
        let kinds = self.kinds.read();
        let same = |kind: &&Kind| kind.resource.group == group && kind.resource.kind == owner.kind;
        kinds.iter().find(same).cloned()
    }
}

struct Watch {
    place: usize,
    collector: Arc<Collector>,
    queue: Queue<String>,
    /// UIDs of a list that is under way.
    listed: HashMap<String, Object>,
}

impl Watch {
    async fn run(mut self, client: Client, kind: Kind, shutdown: CancellationToken) {
        let api: Api<PartialObjectMeta<DynamicObject>> = Api::all_with(client, &kind.resource);
        let stream = watcher(api, Config::default()).backoff(Retry::default());
        let mut stream = std::pin::pin!(stream);
        loop {
            let event = tokio::select! {
                () = shutdown.cancelled() => return,
                event = stream.next() => event,
            };
            match event {
                None => return,
                Some(Ok(event)) => self.take(event),
                Some(Err(error)) => {
                    let error = chain(&error);
                    tracing::debug!(kind = kind.resource.kind, error, "the watch broke");
                }
            }
        }
    }

    fn take(&mut self, event: Event<PartialObjectMeta<DynamicObject>>) {
        let look = match event {
            Event::Init => {
                self.listed.clear();
                return;
            }
            Event::InitApply(object) => {
                let uid = object.metadata.uid.clone().unwrap_or_default();
                self.listed.insert(uid, Object::of(self.place, object.metadata));
                return;
            }
            Event::InitDone => {
                let listed = std::mem::take(&mut self.listed);
                let mut graph = self.collector.graph.lock();
                let mut look = Vec::new();
                for uid in graph.of_kind(self.place) {
                    if !listed.contains_key(&uid) {
                        look.extend(graph.remove(&uid));
                    }
                }
                for (uid, object) in listed {
                    look.extend(graph.apply(&uid, object));
                }
                look
            }
            Event::Apply(object) => {
                let uid = object.metadata.uid.clone().unwrap_or_default();
                let object = Object::of(self.place, object.metadata);
                self.collector.graph.lock().apply(&uid, object)
            }
            Event::Delete(object) => {
                let uid = object.metadata.uid.unwrap_or_default();
                self.collector.graph.lock().remove(&uid)
            }
        };
        look.into_iter().for_each(|uid| self.queue.add(uid));
    }
}

/// Looks at one object, by UID.
pub(crate) async fn reconcile(context: Arc<Context>, uid: String) -> Reconciled {
    let collector = &context.collector;
    let (object, dependents) = {
        let graph = collector.graph.lock();
        let Some(object) = graph.get(&uid).cloned() else { return Ok(None) };
        (object, graph.dependents(&uid))
    };
    let work = Work { context: &context, uid: &uid, object: &object };
    if object.orphan {
        return work.orphan(&dependents).await.map(|()| None);
    }
    if object.foreground {
        work.delete_dependents(&dependents).await?;
    } else if object.deleting {
        return Ok(None);
    }
    if !object.owners.is_empty() && !object.deleting {
        work.judge().await?;
    }
    Ok(None)
}

/// How an owner stands to its dependent.
enum Owner {
    Solid,
    /// Gone, or replaced by a namesake.
    Absent,
    /// Being deleted, and waiting for this dependent.
    Waiting,
}

struct Work<'w> {
    context: &'w Context,
    uid: &'w str,
    object: &'w Object,
}

impl Work<'_> {
    fn api(&self, object: &Object) -> Result<Api<DynamicObject>, Error> {
        let kind = self.context.collector.kind(object.kind);
        let kind = kind.ok_or_else(|| Error::Other("an object of an unknown kind".to_owned()))?;
        Ok(self.api_of(&kind, &object.namespace))
    }

    fn api_of(&self, kind: &Kind, namespace: &str) -> Api<DynamicObject> {
        let client = self.context.client.clone();
        if kind.namespaced {
            Api::namespaced_with(client, namespace, &kind.resource)
        } else {
            Api::all_with(client, &kind.resource)
        }
    }

    /// Deletes the object, or some of its owner references, if its owners say so.
    async fn judge(&self) -> Result<(), Error> {
        let (mut solid, mut waiting, mut gone) = (0, false, Vec::new());
        for owner in &self.object.owners {
            match self.owner(owner).await? {
                Owner::Solid => solid += 1,
                Owner::Absent => gone.push(owner.uid.clone()),
                Owner::Waiting => {
                    waiting = true;
                    gone.push(owner.uid.clone());
                }
            }
        }
        if gone.is_empty() {
            return Ok(());
        }
        if solid > 0 {
            return self.drop_owners(self.uid, self.object, &gone).await;
        }
        // An owner that waits for its dependents waits for theirs too.
        let deep = waiting && self.context.collector.graph.lock().has_dependents(self.uid);
        let policy =
            if deep { PropagationPolicy::Foreground } else { PropagationPolicy::Background };
        self.delete(self.uid, self.object, policy).await
    }

    async fn owner(&self, owner: &OwnerReference) -> Result<Owner, Error> {
        if let Some(known) = self.context.collector.graph.lock().get(&owner.uid) {
            return Ok(if known.foreground { Owner::Waiting } else { Owner::Solid });
        }
        let Some(kind) = self.context.collector.kind_of(owner) else {
            // Of a kind that is not served (now): nobody can say that it is gone.
            return Ok(Owner::Solid);
        };
        let api = self.api_of(&kind, &self.object.namespace);
        match api.get_metadata(&owner.name).await {
            Ok(found) if found.metadata.uid.as_ref() == Some(&owner.uid) => Ok(Owner::Solid),
            Ok(_) => Ok(Owner::Absent),
            Err(error) if is_code(&error, 404) => Ok(Owner::Absent),
            Err(error) => Err(error.into()),
        }
    }

    async fn delete(
        &self,
        uid: &str,
        object: &Object,
        policy: PropagationPolicy,
    ) -> Result<(), Error> {
        let parameters = DeleteParams {
            propagation_policy: Some(policy),
            preconditions: Some(Preconditions {
                uid: Some(uid.to_owned()),
                resource_version: None,
            }),
            ..Default::default()
        };
        match self.api(object)?.delete(&object.name, &parameters).await {
            Ok(_) => Ok(()),
            // Gone, or replaced by a namesake.
            Err(error) if is_code(&error, 404) || is_code(&error, 409) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Foreground deletion: dependents first; when none is left that blocks, the object may go.
    async fn delete_dependents(&self, dependents: &[(String, Object)]) -> Result<(), Error> {
        let blocks = |object: &Object| {
            object
                .owners
                .iter()
                .any(|owner| owner.uid == self.uid && owner.block_owner_deletion == Some(true))
        };
        if !dependents.iter().any(|(_, object)| blocks(object)) {
            return self.drop_finalizer(FOREGROUND).await;
        }
        for (uid, object) in dependents.iter().filter(|(_, object)| !object.deleting) {
            let work = Work { context: self.context, uid, object };
            work.judge().await?;
        }
        Ok(())
    }

    /// Orphan deletion: dependents are let go first.
    async fn orphan(&self, dependents: &[(String, Object)]) -> Result<(), Error> {
        for (uid, object) in dependents {
            self.drop_owners(uid, object, std::slice::from_ref(&self.uid.to_owned())).await?;
        }
        self.drop_finalizer(ORPHAN).await
    }

    async fn drop_owners(&self, uid: &str, object: &Object, gone: &[String]) -> Result<(), Error> {
        let api = self.api(object)?;
        let fresh = match api.get_metadata(&object.name).await {
            Ok(fresh) if fresh.metadata.uid.as_deref() == Some(uid) => fresh,
            Ok(_) => return Ok(()),
            Err(error) if is_code(&error, 404) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let mut owners = fresh.owner_references().to_vec();
        owners.retain(|owner| !gone.contains(&owner.uid));
        let patch = json!({"metadata": {
            "uid": uid,
            "resourceVersion": fresh.metadata.resource_version,
            "ownerReferences": owners,
        }});
        self.patch(&api, &object.name, patch).await
    }

    async fn drop_finalizer(&self, finalizer: &str) -> Result<(), Error> {
        let api = self.api(self.object)?;
        let fresh = match api.get_metadata(&self.object.name).await {
            Ok(fresh) if fresh.metadata.uid.as_deref() == Some(self.uid) => fresh,
            Ok(_) => return Ok(()),
            Err(error) if is_code(&error, 404) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let mut finalizers = fresh.metadata.finalizers.unwrap_or_default();
        finalizers.retain(|one| one != finalizer);
        let patch = json!({"metadata": {
            "uid": self.uid,
            "resourceVersion": fresh.metadata.resource_version,
            "finalizers": finalizers,
        }});
        self.patch(&api, &self.object.name, patch).await
    }

    async fn patch(
        &self,
        api: &Api<DynamicObject>,
        name: &str,
        patch: serde_json::Value,
    ) -> Result<(), Error> {
        match api.patch_metadata(name, &PatchParams::default(), &Patch::Merge(patch)).await {
            Ok(_) => Ok(()),
            Err(error) if is_code(&error, 404) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}
