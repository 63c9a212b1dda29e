//! ConfigMaps and Secrets that pods of this node use, each held up to date by its own watch for as
//! long as some pod uses it, and the services of the cluster.

use std::collections::{HashMap, HashSet};
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use bowline_api::informer::Informer;
use futures::StreamExt;
use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service};
use kube::runtime::watcher;
use kube::{Api, Resource};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Longest wait for the first sight of an object.
const FIRST_SIGHT: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_millis(500);

/// The API server did not tell in time whether the object exists.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("failed to sync {kind} {namespace}/{name}: timed out waiting for the API server")]
pub struct Unknown {
    kind: String,
    namespace: String,
    name: String,
}

/// Called with the UID of a pod whose objects have changed.
pub type Changed = Arc<dyn Fn(&str) + Send + Sync>;

type Sight<K> = Option<Option<Arc<K>>>;

struct Entry<K> {
    seen: watch::Receiver<Sight<K>>,
    users: Arc<Mutex<HashSet<String>>>,
    _stop: DropGuard,
}

/// Objects of one kind.
pub struct Watched<K> {
    client: kube::Client,
    entries: Mutex<HashMap<(String, String), Entry<K>>>,
    changed: Changed,
}

impl<K> Watched<K>
where
    K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
        + Clone
        + DeserializeOwned
        + Debug
        + Send
        + Sync
        + 'static,
{
    fn new(client: kube::Client, changed: Changed) -> Self {
        Self { client, entries: Mutex::new(HashMap::new()), changed }
    }

    /// The object as last seen, none when it does not exist; `user` (a pod's UID) is told of changes
    /// until it is [released](Objects::release).
    pub async fn get(
        &self,
        user: &str,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Arc<K>>, Unknown> {
        let mut seen = self.entry(user, namespace, name);
        let unknown = || Unknown {
            kind: K::kind(&()).to_lowercase(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        };
        let first = tokio::time::timeout(FIRST_SIGHT, seen.wait_for(Option::is_some)).await;
        let sight = first.map_err(|_| unknown())?.map_err(|_| unknown())?.clone();
        sight.ok_or_else(unknown)
    }

    fn entry(&self, user: &str, namespace: &str, name: &str) -> watch::Receiver<Sight<K>> {
        let mut entries = self.entries.lock();
        let key = (namespace.to_owned(), name.to_owned());
        let entry = entries.entry(key).or_insert_with(|| self.follow(namespace, name));
        entry.users.lock().insert(user.to_owned());
        entry.seen.clone()
    }

    fn follow(&self, namespace: &str, name: &str) -> Entry<K> {
        let (to, seen) = watch::channel(None);
        let users = Arc::new(Mutex::new(HashSet::new()));
        let stop = CancellationToken::new();
        let (told, changed, stopped) =
            (Arc::clone(&users), Arc::clone(&self.changed), stop.clone());
        let api: Api<K> = Api::namespaced(self.client.clone(), namespace);
        let name = name.to_owned();
        tokio::spawn(async move {
            let mut events = std::pin::pin!(watcher::watch_object(api, &name));
            loop {
                let event = tokio::select! {
                    () = stopped.cancelled() => return,
                    event = events.next() => event,
                };
                match event {
                    None => return,
                    Some(Err(error)) => {
                        tracing::debug!(name, %error, "the watch of an object broke");
                        tokio::time::sleep(RETRY).await;
                    }
                    Some(Ok(object)) => {
                        let first = to.borrow().is_none();
                        to.send_replace(Some(object.map(Arc::new)));
                        let users: Vec<String> = told.lock().iter().cloned().collect();
                        if !first {
                            users.iter().for_each(|uid| changed(uid));
                        }
                    }
                }
            }
        });
        Entry { seen, users, _stop: stop.drop_guard() }
    }

    fn release(&self, user: &str) {
        self.entries.lock().retain(|_, entry| {
            let mut users = entry.users.lock();
            users.remove(user);
            !users.is_empty()
        });
    }
}

/// Everything that pods refer to.
pub struct Objects {
    pub config_maps: Watched<ConfigMap>,
    pub secrets: Watched<Secret>,
    pub services: Informer<Service>,
}

impl Objects {
    pub fn new(client: &kube::Client, changed: &Changed) -> Self {
        Self {
            config_maps: Watched::new(client.clone(), Arc::clone(changed)),
            secrets: Watched::new(client.clone(), Arc::clone(changed)),
            services: Informer::new(),
        }
    }

    /// Watches services until `shutdown`.
    pub fn run_services(&self, client: &kube::Client, shutdown: CancellationToken) {
        let api: Api<Service> = Api::all(client.clone());
        let trim = |service: &mut Service| {
            service.status = None;
            service.metadata.annotations = None;
        };
        tokio::spawn(self.services.clone().run(api, watcher::Config::default(), trim, shutdown));
    }

    /// Pod `user` needs nothing any more.
    pub fn release(&self, user: &str) {
        self.config_maps.release(user);
        self.secrets.release(user);
    }
}
