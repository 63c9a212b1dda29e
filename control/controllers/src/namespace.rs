//! Empties a namespace that is being deleted, then lets it go.
//!
//! Its content is found by discovery, so kinds that this code has never heard of go too.

use std::sync::Arc;
use std::time::Duration;

use bowline_api::informer::Key;
use k8s_openapi::api::core::v1::{Namespace, NamespaceCondition};
use kube::api::{ApiResource, DeleteParams, DynamicObject, ListParams, PostParams};
use kube::discovery::{Scope, verbs};
use kube::{Api, ResourceExt};

use crate::context::{Context, Error, Reconciled, is_code, seconds};
use crate::discovery;
use crate::queue::Queue;

const FINALIZER: &str = "kubernetes";
/// Pods take their grace period to end.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

pub(crate) fn watch(context: &Arc<Context>) -> Queue<Key> {
    let queue = Queue::new();
    let adds = queue.clone();
    context.caches.namespaces.on_change(move |change| {
        if change.new.as_ref().is_some_and(|one| one.metadata.deletion_timestamp.is_some()) {
            adds.add(Key::of(change.object().as_ref()));
        }
    });
    queue
}

pub(crate) async fn reconcile(context: Arc<Context>, key: Key) -> Reconciled {
    let Some(namespace) = context.caches.namespaces.get(&key) else { return Ok(None) };
    if namespace.metadata.deletion_timestamp.is_none() || !has_finalizer(&namespace) {
        return Ok(None);
    }
    let mut left = Vec::new();
    for kind in &kinds(&context).await? {
        let api: Api<DynamicObject> = Api::namespaced_with(context.client.clone(), &key.name, kind);
        left.extend(empty(&api, kind).await?);
    }
    if left.is_empty() {
        finalize(&context, &namespace).await?;
        return Ok(None);
    }
    tell(&context, &namespace, &left).await?;
    Ok(Some(LOOK_AGAIN))
}

fn has_finalizer(namespace: &Namespace) -> bool {
    let finalizers = namespace.spec.as_ref().and_then(|spec| spec.finalizers.as_ref());
    finalizers.is_some_and(|list| list.iter().any(|one| one == FINALIZER))
}

/// Every namespaced kind whose objects can be listed and deleted. While discovery fails, objects
/// may be there unseen: the namespace stays.
async fn kinds(context: &Context) -> Result<Vec<ApiResource>, Error> {
    let mut kinds = discovery::kinds(&context.client).await?;
    kinds.retain(|(_, capabilities)| {
        capabilities.scope == Scope::Namespaced
            && capabilities.supports_operation(verbs::DELETE)
            && capabilities.supports_operation(verbs::LIST)
    });
    Ok(kinds.into_iter().map(|(resource, _)| resource).collect())
}

/// Deletes all of one kind; says what is left, if anything.
async fn empty(api: &Api<DynamicObject>, kind: &ApiResource) -> Result<Option<String>, Error> {
    let list = match api.list_metadata(&ListParams::default()).await {
        Ok(list) => list,
        // The kind went away, or only looks like one that can be listed.
        Err(error) if is_code(&error, 404) || is_code(&error, 405) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let fresh = list.items.iter().any(|object| object.metadata.deletion_timestamp.is_none());
    if fresh {
        let parameters = DeleteParams::background();
        match api.delete_collection(&parameters, &ListParams::default()).await {
            Ok(_) => {}
            Err(error) if is_code(&error, 404) => {}
            // Not for collections, then one by one.
            Err(error) if is_code(&error, 405) => {
                for object in &list.items {
                    match api.delete(&object.name_any(), &parameters).await {
                        Ok(_) => {}
                        Err(error) if is_code(&error, 404) => {}
                        Err(error) => return Err(error.into()),
                    }
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
    let list = api.list_metadata(&ListParams::default()).await?;
    if list.items.is_empty() {
        return Ok(None);
    }
    Ok(Some(format!("{} has {} resource instances", kind.plural, list.items.len())))
}

async fn finalize(context: &Context, namespace: &Namespace) -> Result<(), Error> {
    let mut changed = namespace.clone();
    if let Some(spec) = &mut changed.spec {
        spec.finalizers.iter_mut().for_each(|list| list.retain(|one| one != FINALIZER));
    }
    let path = format!("/api/v1/namespaces/{}/finalize", namespace.name_any());
    let body = serde_json::to_vec(&changed).map_err(|error| Error::Other(error.to_string()))?;
    let request = http::Request::put(path)
        .header(http::header::CONTENT_TYPE, "application/json")
        .body(body)
        .map_err(|error| Error::Other(error.to_string()))?;
    match context.client.request::<Namespace>(request).await {
        Ok(_) => Ok(()),
        Err(error) if is_code(&error, 404) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

async fn tell(context: &Context, namespace: &Namespace, left: &[String]) -> Result<(), Error> {
    let message = format!("Some resources are remaining: {}", left.join(", "));
    let mut changed = namespace.clone();
    let conditions = changed.status.get_or_insert_default().conditions.get_or_insert_default();
    let kind = "NamespaceContentRemaining";
    if conditions.iter().any(|one| one.type_ == kind && one.message.as_ref() == Some(&message)) {
        return Ok(());
    }
    conditions.retain(|one| one.type_ != kind);
    conditions.push(NamespaceCondition {
        type_: kind.to_owned(),
        status: "True".to_owned(),
        reason: Some("SomeResourcesRemain".to_owned()),
        message: Some(message),
        last_transition_time: Some(seconds(context.now())),
    });
    let api: Api<Namespace> = Api::all(context.client.clone());
    let name = namespace.name_any();
    match api.replace_status(&name, &PostParams::default(), &changed).await {
        Ok(written) => context.caches.namespaces.observe(written),
        Err(error) if is_code(&error, 404) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(())
}
