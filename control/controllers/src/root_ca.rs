//! Publishes the apiserver's CA in every namespace, for pods to trust: ConfigMap
//! `kube-root-ca.crt`, key `ca.crt`.

use std::sync::Arc;

use bowline_api::informer::Key;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use serde_json::json;

use crate::context::{Context, Reconciled};
use crate::queue::Queue;

const NAME: &str = "kube-root-ca.crt";
const DATA: &str = "ca.crt";

/// Keys are namespaces.
pub(crate) fn watch(context: &Arc<Context>) -> Queue<Key> {
    let queue = Queue::new();
    let adds = queue.clone();
    context.caches.namespaces.on_change(move |change| adds.add(Key::of(change.object().as_ref())));
    let adds = queue.clone();
    context.caches.root_cas.on_change(move |change| {
        adds.add(Key::new("", Key::of(change.object().as_ref()).namespace));
    });
    queue
}

pub(crate) async fn reconcile(context: Arc<Context>, key: Key) -> Reconciled {
    let Some(ca) = &context.config.ca else { return Ok(None) };
    let namespace = context.caches.namespaces.get(&key);
    if namespace.is_none_or(|one| one.metadata.deletion_timestamp.is_some()) {
        return Ok(None);
    }
    let data = [(DATA.to_owned(), ca.certificate_pem.clone())].into();
    let api: Api<ConfigMap> = Api::namespaced(context.client.clone(), &key.name);
    let written = match context.caches.root_cas.get(&Key::new(key.name.as_str(), NAME)) {
        Some(map) if map.data.as_ref() == Some(&data) => return Ok(None),
        Some(_) => {
            let patch = Patch::Merge(json!({"data": data}));
            api.patch(NAME, &PatchParams::default(), &patch).await?
        }
        None => {
            let description = "Contains a CA bundle that can be used to verify the apiserver.";
            let map = ConfigMap {
                metadata: ObjectMeta {
                    name: Some(NAME.to_owned()),
                    annotations: Some(
                        [("kubernetes.io/description".to_owned(), description.to_owned())].into(),
                    ),
                    ..Default::default()
                },
                data: Some(data),
                ..Default::default()
            };
            api.create(&PostParams::default(), &map).await?
        }
    };
    context.caches.root_cas.observe(written);
    Ok(None)
}
