//! The scheduler's state machine: what it is told, what it decides. Pure; [`crate::driver`] brings
//! it the news and carries out what it decides.
//!
//! ```text
//!   pod seen ──> waiting ──node found──> assumed ──bound, and seen so──> placed ──> gone
//!                   ^                       │
//!                   └────── bind failed ────┘
//! ```

use std::collections::HashMap;
use std::sync::Arc;

use bowline_api::informer::Key;
use bowline_api::matching::Labels;
use k8s_openapi::api::core::v1::{Node, Pod};
use tokio::time::Instant;

use crate::algorithm::{self, Decision, Diagnosis};
use crate::preemption::{self, Preemption};
use crate::queue::{Queue, Wakeup};
use crate::snapshot::{Cluster, PodInfo};

/// What to do about one pod.
#[derive(Debug)]
pub(crate) enum Action {
    Bind {
        pod: Arc<PodInfo>,
        node: String,
    },
    /// Tell the user; make room if that helps.
    Report {
        pod: Arc<PodInfo>,
        message: String,
        preemption: Option<Preemption>,
    },
}

pub(crate) struct State {
    scheduler_name: String,
    cluster: Cluster,
    queue: Queue,
    /// Unbound pods that are ours.
    waiting: HashMap<Key, Arc<PodInfo>>,
    /// UID by key of every pod on a node, to find what a deleted key was.
    placed: HashMap<Key, String>,
    /// Chosen, but the API does not say so yet.
    assumed: HashMap<String, String>,
    /// Pods for which others are being ended, and where: the room is kept for them against pods of
    /// lower priority.
    nominated: HashMap<String, (Arc<PodInfo>, String)>,
    turn: usize,
}

impl State {
    pub(crate) fn new(scheduler_name: &str) -> Self {
        Self {
            scheduler_name: scheduler_name.to_owned(),
            cluster: Cluster::default(),
            queue: Queue::default(),
            waiting: HashMap::new(),
            placed: HashMap::new(),
            assumed: HashMap::new(),
            nominated: HashMap::new(),
            turn: 0,
        }
    }

    pub(crate) fn node_changed(&mut self, name: &str, node: Option<Arc<Node>>, now: Instant) {
        // A heartbeat is no news.
        let same = match (self.cluster.node(name), &node) {
            (Some(old), Some(new)) => offers_same(&old.node, new),
            (old, new) => old.is_none() && new.is_none(),
        };
        self.cluster.set_node(name, node);
        if !same {
            self.queue.wake_all(Wakeup::Room, now);
        }
    }

    pub(crate) fn namespace_changed(&mut self, name: &str, labels: Option<Labels>) {
        self.cluster.set_namespace(name, labels);
    }

    pub(crate) fn pod_changed(&mut self, key: &Key, pod: Option<Arc<Pod>>, now: Instant) {
        let pod = pod.filter(|pod| !is_ended(pod));
        // Another pod of the same name is another pod.
        let uid = pod.as_ref().and_then(|pod| pod.metadata.uid.clone());
        self.forget_others(key, uid.as_deref(), now);
        let Some(pod) = pod else { return };
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
        let info = Arc::new(PodInfo::new(Arc::clone(&pod)));
        match node.filter(|node| !node.is_empty()) {
            Some(node) => {
                self.assumed.remove(&info.uid);
                self.waits_no_more(key);
                let moved = self.cluster.place_of(&info.uid) != Some(&node);
                self.placed.insert(key.clone(), info.uid.clone());
                self.cluster.place(info, &node);
                if moved {
                    self.queue.wake_all(Wakeup::Company, now);
                }
            }
            // Should the binding be refused, its newest wishes count.
            None if self.assumed.contains_key(&info.uid) && self.is_ours(&pod) => {
                self.waiting.insert(key.clone(), info);
            }
            None if self.is_ours(&pod) => {
                let priority = info.priority;
                let before = self.waiting.insert(key.clone(), info);
                // Its status, which we write ourselves, is no reason to try again.
                if before.is_none_or(|before| wishes_differ(&before.pod, &pod)) {
                    self.queue.add(key, priority, now);
                }
            }
            None => self.waits_no_more(key),
        }
    }

    fn waits_no_more(&mut self, key: &Key) {
        if let Some(pod) = self.waiting.remove(key) {
            self.nominated.remove(&pod.uid);
        }
        self.queue.remove(key);
    }

    fn forget_others(&mut self, key: &Key, uid: Option<&str>, now: Instant) {
        if self.waiting.get(key).is_some_and(|info| Some(info.uid.as_str()) != uid) {
            self.waits_no_more(key);
        }
        if let Some(old) = self.placed.get(key).filter(|old| Some(old.as_str()) != uid).cloned() {
            self.placed.remove(key);
            self.assumed.remove(&old);
            if self.cluster.remove(&old) {
                self.queue.wake_all(Wakeup::Room, now);
            }
        }
    }

    fn is_ours(&self, pod: &Pod) -> bool {
        let Some(spec) = &pod.spec else { return false };
        spec.scheduler_name.as_deref().unwrap_or(&self.scheduler_name) == self.scheduler_name
            && pod.metadata.deletion_timestamp.is_none()
            && spec.scheduling_gates.as_deref().unwrap_or_default().is_empty()
    }

    /// Decides about the next pod that is ready to be tried, if any.
    pub(crate) fn next(&mut self, now: Instant) -> Option<Action> {
        loop {
            let key = self.queue.pop(now)?;
            let Some(pod) = self.waiting.get(&key).cloned() else {
                self.queue.remove(&key);
                continue;
            };
            self.turn = self.turn.wrapping_add(1);
            let kept = self.keep_room(&pod);
            let decision = algorithm::schedule(&pod, &self.cluster, self.turn);
            for uid in &kept {
                self.cluster.remove(uid);
            }
            return Some(match decision {
                Decision::Node(node) => {
                    self.nominated.remove(&pod.uid);
                    self.assumed.insert(pod.uid.clone(), node.clone());
                    self.placed.insert(key.clone(), pod.uid.clone());
                    self.cluster.place(Arc::clone(&pod), &node);
                    self.queue.wake_all(Wakeup::Company, now);
                    Action::Bind { pod, node }
                }
                Decision::None(diagnosis) => self.refuse(&key, pod, &diagnosis, now),
            });
        }
    }

    /// Puts the nominated pods that go before `pod` on their nodes, for one look.
    fn keep_room(&mut self, pod: &PodInfo) -> Vec<String> {
        let before = self
            .nominated
            .values()
            .filter(|(other, _)| other.uid != pod.uid && other.priority >= pod.priority);
        let before: Vec<_> = before.cloned().collect();
        for (other, node) in &before {
            self.cluster.place(Arc::clone(other), node);
        }
        before.into_iter().map(|(other, _)| other.uid.clone()).collect()
    }

    fn refuse(
        &mut self,
        key: &Key,
        pod: Arc<PodInfo>,
        diagnosis: &Diagnosis,
        now: Instant,
    ) -> Action {
        self.queue.put_aside(key, diagnosis.wants_company(), now);
        let (preemption, why) = preemption::find(&pod, &mut self.cluster, diagnosis);
        if let Some(preemption) = &preemption {
            let place = (Arc::clone(&pod), preemption.node.clone());
            self.nominated.insert(pod.uid.clone(), place);
        }
        let mut message = diagnosis.message();
        if let Some(why) = why {
            message.push_str(&format!(" preemption: {why}"));
        }
        Action::Report { pod, message, preemption }
    }

    /// The API took the binding; its news of the pod may come later.
    pub(crate) fn bound(&mut self, pod: &PodInfo) {
        if self.waiting.get(&pod.key).is_some_and(|waiting| waiting.uid == pod.uid) {
            self.waits_no_more(&pod.key);
        }
    }

    /// The API refused the binding: the choice is undone and made again after a rest.
    pub(crate) fn bind_failed(&mut self, pod: &PodInfo, now: Instant) {
        if self.assumed.remove(&pod.uid).is_none() {
            return;
        }
        self.cluster.remove(&pod.uid);
        if self.placed.get(&pod.key) == Some(&pod.uid) {
            self.placed.remove(&pod.key);
        }
        if self.waiting.contains_key(&pod.key) {
            self.queue.retry(&pod.key, now);
        }
        self.queue.wake_all(Wakeup::Room, now);
    }

    pub(crate) fn flush(&mut self, now: Instant) {
        self.queue.flush(now);
    }

    /// When to look again, if nothing is heard before.
    pub(crate) fn next_at(&self) -> Option<Instant> {
        self.queue.next_at()
    }
}

fn is_ended(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

fn wishes_differ(before: &Pod, after: &Pod) -> bool {
    before.spec != after.spec || before.metadata.labels != after.metadata.labels
}

/// Whether a pod that did not fit the one can't fit the other either.
fn offers_same(old: &Node, new: &Node) -> bool {
    let room = |node: &Node| node.status.as_ref().and_then(|status| status.allocatable.clone());
    old.spec == new.spec && old.metadata.labels == new.metadata.labels && room(old) == room(new)
}

#[cfg(test)]
mod tests;
