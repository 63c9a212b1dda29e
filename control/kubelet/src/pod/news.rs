//! What reaches a pod's worker, and what it shows of itself.

use std::collections::HashSet;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::runtime::PodRuntime;

/// What the pod's source wants.
#[derive(Clone, Debug)]
pub struct Desired {
    pub pod: Arc<Pod>,
    /// The object no longer exists.
    pub gone: bool,
}

/// News for a worker that need no answer; many become one.
#[derive(Debug, Default)]
pub struct News {
    state: Mutex<Pending>,
    notify: Notify,
}

/// News that have not been taken yet.
#[derive(Debug, Default)]
pub(super) struct Pending {
    pub reread: bool,
    pub refresh: bool,
    pub exited: HashSet<String>,
    pub evict: Option<String>,
}

impl News {
    /// Something may have changed in the runtime.
    pub fn reread(&self) {
        self.state.lock().reread = true;
        self.notify.notify_one();
    }

    /// A container or sandbox of the pod has ended.
    pub fn exited(&self, id: &str) {
        self.state.lock().exited.insert(id.to_owned());
        self.notify.notify_one();
    }

    /// An object that the pod uses has changed.
    pub fn refresh(&self) {
        self.state.lock().refresh = true;
        self.notify.notify_one();
    }

    /// The node can't bear the pod any more.
    pub fn evict(&self, message: String) {
        self.state.lock().evict = Some(message);
        self.notify.notify_one();
    }

    /// Takes all that has come since the last time.
    pub(super) fn take(&self) -> Pending {
        std::mem::take(&mut *self.state.lock())
    }

    /// Returns at once when something has come since it returned last.
    pub(super) async fn wait(&self) {
        self.notify.notified().await;
    }

    /// Look again; nothing particular happened.
    pub fn poke(&self) {
        self.notify.notify_one();
    }
}

/// What others may know of a pod at any time.
#[derive(Clone, Debug, Default)]
pub struct Shown {
    pub runtime: PodRuntime,
    pub status: PodStatus,
}
