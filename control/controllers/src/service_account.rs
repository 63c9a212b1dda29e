//! Gives every namespace its service account `default`.

use std::sync::Arc;

use bowline_api::informer::Key;
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::Api;
use kube::api::{ObjectMeta, PostParams};

use crate::context::{Context, Reconciled, is_code};
use crate::queue::Queue;

const NAME: &str = "default";

/// Keys are namespaces.
pub(crate) fn watch(context: &Arc<Context>) -> Queue<Key> {
    let queue = Queue::new();
    let adds = queue.clone();
    context.caches.namespaces.on_change(move |change| adds.add(Key::of(change.object().as_ref())));
    let adds = queue.clone();
    context.caches.accounts.on_change(move |change| {
        let key = Key::of(change.object().as_ref());
        if change.new.is_none() && key.name == NAME {
            adds.add(Key::new("", key.namespace));
        }
    });
    queue
}

pub(crate) async fn reconcile(context: Arc<Context>, key: Key) -> Reconciled {
    let namespace = context.caches.namespaces.get(&key);
    if namespace.is_none_or(|one| one.metadata.deletion_timestamp.is_some()) {
        return Ok(None);
    }
    if context.caches.accounts.get(&Key::new(key.name.as_str(), NAME)).is_some() {
        return Ok(None);
    }
    let account = ServiceAccount {
        metadata: ObjectMeta {
            name: Some(NAME.to_owned()),
            namespace: Some(key.name.clone()),
            ..Default::default()
        },
        ..Default::default()
    };
    let api: Api<ServiceAccount> = Api::namespaced(context.client.clone(), &key.name);
    match api.create(&PostParams::default(), &account).await {
        Ok(created) => context.caches.accounts.observe(created),
        Err(error) if is_code(&error, 409) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(None)
}
