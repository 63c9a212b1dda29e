//! The end of a pod: everything that it had on the node goes.

use super::{REREAD, Worker};
use crate::pod::view;
use crate::volume;

impl Worker {
    /// Nothing of the pod runs any more. True when it is to be forgotten.
    pub(super) async fn finish(&mut self) -> bool {
        let deleted = self.gone || self.pod.metadata.deletion_timestamp.is_some();
        if self.finished && !deleted {
            return false;
        }
        let uid = view::uid(&self.pod).to_owned();
        if deleted {
            for c in &self.runtime.containers {
                let removed = self.ctx.runtime.remove_container(&c.id).await;
                if removed.is_err_and(|e| !e.is_not_found()) {
                    self.dirty = true;
                }
            }
            for s in &self.runtime.sandboxes {
                let removed = self.ctx.runtime.remove_sandbox(&s.id).await;
                if removed.is_err_and(|e| !e.is_not_found()) {
                    self.dirty = true;
                }
            }
            if self.dirty {
                self.news.poke();
                tokio::time::sleep(REREAD).await;
                return false;
            }
        }
        let (dir, logs) = (self.ctx.pod_dir(&uid), self.ctx.log_dir(&self.pod));
        let cgroups = self.ctx.cgroups.clone();
        let cgroup = cgroups.path(&self.pod);
        let links = self.ctx.config.container_log_dir.clone();
        let torn = tokio::task::spawn_blocking(move || {
            cgroups.remove(&cgroup);
            if !deleted {
                return volume::teardown(&dir.join("volumes"));
            }
            remove_links(links.as_deref(), &logs);
            let _ = std::fs::remove_dir_all(&logs);
            volume::teardown(&dir)
        });
        if let Ok(Err(error)) = torn.await {
            let error = bowline_api::chain::chain(&error);
            tracing::warn!(uid, error, "the pod's folder could not be removed, trying again");
            self.news.poke();
            tokio::time::sleep(REREAD).await;
            return false;
        }
        self.finished = true;
        if deleted {
            self.wanted.send_modify(|w| w.delete = true);
        }
        deleted
    }
}

/// Removes the links of a pod's logs.
fn remove_links(dir: Option<&std::path::Path>, logs: &std::path::Path) {
    for entry in dir.and_then(|d| std::fs::read_dir(d).ok()).into_iter().flatten().flatten() {
        if std::fs::read_link(entry.path()).is_ok_and(|target| target.starts_with(logs)) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}
