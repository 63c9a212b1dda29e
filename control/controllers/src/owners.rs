//! Which controller owns an object: references, and the adoption and release of dependents.

use std::sync::Arc;

use bowline_api::informer::{Cached, Informer, Key};
use bowline_api::matching;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, OwnerReference};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, Resource, ResourceExt};
use serde_json::json;

use crate::context::{Error, is_code};

/// Namespaced kinds that own or are owned.
pub(crate) trait Namespaced: Cached + Resource<Scope = NamespaceResourceScope> {}
impl<K: Cached + Resource<Scope = NamespaceResourceScope>> Namespaced for K {}

/// A reference that makes `owner` the controller of what carries it.
pub(crate) fn controller_reference<K: Resource<DynamicType = ()>>(owner: &K) -> OwnerReference {
    OwnerReference {
        api_version: K::api_version(&()).into_owned(),
        kind: K::kind(&()).into_owned(),
        name: owner.name_any(),
        uid: owner.uid().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// The reference to the object's controller.
pub(crate) fn controller_of<K: Resource>(object: &K) -> Option<&OwnerReference> {
    let owners = object.meta().owner_references.as_deref().unwrap_or_default();
    owners.iter().find(|owner| owner.controller == Some(true))
}

/// Whether `owner` controls `object`.
pub(crate) fn controls<O: Resource, K: Resource>(owner: &O, object: &K) -> bool {
    let uid = owner.meta().uid.as_deref();
    controller_of(object).is_some_and(|reference| Some(reference.uid.as_str()) == uid)
}

/// The key of the object's controller, when that is a `kind`.
pub(crate) fn controller_key<K: Resource>(object: &K, kind: &str) -> Option<Key> {
    let owner = controller_of(object).filter(|owner| owner.kind == kind)?;
    Some(Key::new(object.meta().namespace.clone().unwrap_or_default(), owner.name.clone()))
}

/// The dependents of `owner` among the cached objects of its namespace: those that it controls and
/// selects. Orphans that it selects are adopted; what it controls but no longer selects is let go.
pub(crate) async fn claim<O: Namespaced, K: Namespaced>(
    client: &Client,
    cache: &Informer<K>,
    owner: &O,
    selector: Option<&LabelSelector>,
) -> Result<Vec<Arc<K>>, Error> {
    let namespace = owner.namespace().unwrap_or_default();
    let leaving = owner.meta().deletion_timestamp.is_some();
    let mut claimed = Vec::new();
    let mut checked = false;
    for object in cache.in_namespace(&namespace) {
        let selected = matching::selects(selector, object.meta().labels.as_ref());
        match controller_of(object.as_ref()) {
            Some(_) if !controls(owner, object.as_ref()) => {}
            Some(_) if selected => claimed.push(object),
            Some(_) if !leaving => release(client, cache, owner, object.as_ref()).await?,
            Some(_) => {}
            None if selected && !leaving && object.meta().deletion_timestamp.is_none() => {
                if !checked {
                    still_there(client, owner).await?;
                    checked = true;
                }
                claimed.extend(adopt(client, cache, owner, object.as_ref()).await?);
            }
            None => {}
        }
    }
    Ok(claimed)
}

/// An owner that was replaced by a namesake, or is being deleted, must not adopt.
async fn still_there<O: Namespaced>(client: &Client, owner: &O) -> Result<(), Error> {
    let api: Api<O> = Api::namespaced(client.clone(), &owner.namespace().unwrap_or_default());
    let fresh = api.get(&owner.name_any()).await?;
    if fresh.uid() == owner.uid() && fresh.meta().deletion_timestamp.is_none() {
        return Ok(());
    }
    Err(Error::Other(format!(
        "{} {} was replaced or is being deleted",
        O::kind(&()),
        Key::of(owner)
    )))
}

async fn adopt<O: Namespaced, K: Namespaced>(
    client: &Client,
    cache: &Informer<K>,
    owner: &O,
    object: &K,
) -> Result<Option<Arc<K>>, Error> {
    let mut owners = object.owner_references().to_vec();
    owners.push(controller_reference(owner));
    set_owners(client, cache, object, &owners).await
}

async fn release<O: Namespaced, K: Namespaced>(
    client: &Client,
    cache: &Informer<K>,
    owner: &O,
    object: &K,
) -> Result<(), Error> {
    let uid = owner.uid().unwrap_or_default();
    let mut owners = object.owner_references().to_vec();
    owners.retain(|reference| reference.uid != uid);
    set_owners(client, cache, object, &owners).await.map(drop)
}

/// Replaces the owners of exactly this version of the object; one that is gone is no error.
pub(crate) async fn set_owners<K: Namespaced>(
    client: &Client,
    cache: &Informer<K>,
    object: &K,
    owners: &[OwnerReference],
) -> Result<Option<Arc<K>>, Error> {
    let api: Api<K> = Api::namespaced(client.clone(), &object.namespace().unwrap_or_default());
    let patch = json!({"metadata": {
        "uid": object.uid(),
        "resourceVersion": object.resource_version(),
        "ownerReferences": owners,
    }});
    match api.patch(&object.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await {
        Ok(patched) => {
            let patched: K = patched;
            cache.observe(patched.clone());
            Ok(Some(Arc::new(patched)))
        }
        Err(error) if is_code(&error, 404) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
