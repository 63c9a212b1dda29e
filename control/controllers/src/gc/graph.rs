//! Who owns whom, of all objects of the cluster. Pure.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

pub(crate) const FOREGROUND: &str = "foregroundDeletion";
pub(crate) const ORPHAN: &str = "orphan";

/// One object; `kind` is the number of its kind in the collector's list.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Object {
    pub(crate) kind: usize,
    pub(crate) namespace: Box<str>,
    pub(crate) name: Box<str>,
    pub(crate) owners: Box<[OwnerReference]>,
    pub(crate) deleting: bool,
    /// Its deletion waits for its dependents.
    pub(crate) foreground: bool,
    /// Its deletion lets its dependents go.
    pub(crate) orphan: bool,
}

impl Object {
    pub(crate) fn of(kind: usize, meta: ObjectMeta) -> Self {
        let finalizers = meta.finalizers.unwrap_or_default();
        let deleting = meta.deletion_timestamp.is_some();
        let has = |name: &str| deleting && finalizers.iter().any(|one| one == name);
        Self {
            kind,
            namespace: meta.namespace.unwrap_or_default().into(),
            name: meta.name.unwrap_or_default().into(),
            foreground: has(FOREGROUND),
            orphan: has(ORPHAN),
            owners: meta.owner_references.unwrap_or_default().into(),
            deleting,
        }
    }
}

/// Keyed by UID. Owners need not be there. All objects of the cluster are in it: it is kept small.
#[derive(Debug, Default)]
pub(crate) struct Graph {
    objects: HashMap<Arc<str>, Object>,
    dependents: HashMap<Arc<str>, HashSet<Arc<str>>>,
}

impl Graph {
    pub(crate) fn get(&self, uid: &str) -> Option<&Object> {
        self.objects.get(uid)
    }

    /// The objects that name `uid` as an owner.
    pub(crate) fn dependents(&self, uid: &str) -> Vec<(String, Object)> {
        let uids = self.dependents.get(uid).into_iter().flatten();
        uids.filter_map(|uid| Some((uid.to_string(), self.objects.get(uid)?.clone()))).collect()
    }

    pub(crate) fn has_dependents(&self, uid: &str) -> bool {
        self.dependents.contains_key(uid)
    }

    /// Takes an object's news; returns the UIDs to look at.
    pub(crate) fn apply(&mut self, uid: &str, object: Object) -> Vec<String> {
        let mut look = Vec::new();
        let old = self.detach(uid);
        let own: Arc<str> = uid.into();
        for owner in &object.owners {
            let dependents = self.dependents.entry(owner.uid.as_str().into()).or_default();
            dependents.insert(Arc::clone(&own));
            let known = self.objects.get(owner.uid.as_str());
            // An owner that waits may wait for this one's answer, or its release.
            if known.is_some_and(|owner| owner.foreground || owner.orphan) {
                look.push(owner.uid.clone());
            }
            if known.is_none() || known.is_some_and(|owner| owner.foreground) {
                look.push(uid.to_owned());
            }
        }
        if object.foreground || object.orphan {
            look.push(uid.to_owned());
        }
        // An owner that let go of it may be waiting for just that.
        for gone in old.iter().flat_map(|old| &old.owners) {
            if !object.owners.iter().any(|owner| owner.uid == gone.uid) {
                look.push(gone.uid.clone());
            }
        }
        self.objects.insert(own, object);
        look.dedup();
        look
    }

    /// Forgets an object that is gone; returns the UIDs to look at.
    pub(crate) fn remove(&mut self, uid: &str) -> Vec<String> {
        let Some(old) = self.detach(uid) else { return Vec::new() };
        let dependents = self.dependents.get(uid).into_iter().flatten().map(ToString::to_string);
        let owners = old.owners.iter().map(|owner| owner.uid.clone());
        let owners = owners.filter(|owner| {
            self.objects.get(owner.as_str()).is_some_and(|owner| owner.foreground || owner.orphan)
        });
        dependents.chain(owners).collect()
    }

    /// Every known object of one kind.
    pub(crate) fn of_kind(&self, kind: usize) -> Vec<String> {
        let same = self.objects.iter().filter(|(_, object)| object.kind == kind);
        same.map(|(uid, _)| uid.to_string()).collect()
    }

    fn detach(&mut self, uid: &str) -> Option<Object> {
        let old = self.objects.remove(uid)?;
        for owner in &old.owners {
            if let Some(dependents) = self.dependents.get_mut(owner.uid.as_str()) {
                dependents.remove(uid);
                if dependents.is_empty() {
                    self.dependents.remove(owner.uid.as_str());
                }
            }
        }
        Some(old)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(name: &str, owners: &[&str]) -> Object {
        Object {
            kind: 0,
            namespace: "default".into(),
            name: name.into(),
            owners: owners
                .iter()
                .map(|uid| OwnerReference { uid: (*uid).to_owned(), ..Default::default() })
                .collect(),
            deleting: false,
            foreground: false,
            orphan: false,
        }
    }

    #[test]
    fn dependents_are_looked_at_when_their_owner_goes() {
        let mut graph = Graph::default();
        assert!(graph.apply("a", object("a", &[])).is_empty());
        assert!(graph.apply("b", object("b", &["a"])).is_empty(), "its owner is there");
        assert_eq!(graph.remove("a"), ["b"]);
    }

    #[test]
    fn an_object_whose_owner_is_unknown_is_looked_at() {
        assert_eq!(Graph::default().apply("b", object("b", &["a"])), ["b"]);
    }

    #[test]
    fn an_owner_in_foreground_deletion_hears_of_its_dependents() {
        let mut graph = Graph::default();
        graph.apply("a", object("a", &[]));
        graph.apply("b", object("b", &["a"]));
        let waiting = Object { foreground: true, deleting: true, ..object("a", &[]) };
        assert_eq!(graph.apply("a", waiting), ["a"]);
        assert_eq!(graph.dependents("a").len(), 1);
        assert_eq!(graph.remove("b"), ["a"]);
        assert!(!graph.has_dependents("a"));
    }

    #[test]
    fn a_released_dependent_is_no_longer_one() {
        let mut graph = Graph::default();
        graph.apply("a", object("a", &[]));
        graph.apply("b", object("b", &["a"]));
        assert_eq!(graph.apply("b", object("b", &[])), ["a"]);
        assert!(!graph.has_dependents("a"));
    }
}
