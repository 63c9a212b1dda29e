//! What is served: a kind is a row of data and a small strategy.

mod rows;

use std::collections::HashMap;
use std::sync::Arc;

use bowline_schema::Gvk;

use crate::strategy::{self, Strategy};

/// One served resource. Rows of the built-in kinds live in `rows.rs`; custom resources will add
/// theirs while the server runs, hence no `'static`.
pub(crate) struct Kind {
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) kind: String,
    /// The resource's name in paths.
    pub(crate) plural: String,
    pub(crate) singular: String,
    pub(crate) short_names: Vec<String>,
    pub(crate) categories: Vec<String>,
    pub(crate) namespaced: bool,
    /// Of get, list, watch, create, update, patch, delete, deletecollection.
    pub(crate) verbs: Vec<&'static str>,
    pub(crate) subresources: Vec<&'static str>,
    /// `metadata.generation` counts changes of what is neither metadata nor status.
    pub(crate) generation: bool,
    /// The version in which objects lie in the store.
    pub(crate) storage: Gvk,
    /// Where they lie: `/registry/<group>/<plural>/`.
    pub(crate) prefix: Arc<str>,
    pub(crate) strategy: &'static dyn Strategy,
    /// Fields that selectors may name.
    pub(crate) fields: Vec<&'static str>,
}

impl Kind {
    pub(crate) fn gvk(&self) -> Gvk {
        Gvk::new(&self.group, &self.version, &self.kind)
    }

    pub(crate) fn api_version(&self) -> String {
        self.gvk().api_version()
    }

    /// `deployments.apps`, as messages name a resource.
    pub(crate) fn qualified(&self) -> String {
        if self.group.is_empty() {
            self.plural.clone()
        } else {
            format!("{}.{}", self.plural, self.group)
        }
    }

    /// Whether objects must be converted between the store and this version.
    pub(crate) fn converts(&self) -> bool {
        self.storage.group != self.group || self.storage.version != self.version
    }

    pub(crate) fn has_subresource(&self, name: &str) -> bool {
        self.subresources.contains(&name)
    }

    /// The store's key of an object.
    pub(crate) fn key(&self, namespace: &str, name: &str) -> String {
        if self.namespaced {
            format!("{}{namespace}/{name}", self.prefix)
        } else {
            format!("{}{name}", self.prefix)
        }
    }

    /// The prefix of all keys in a namespace (of all, if it is empty).
    pub(crate) fn prefix_in(&self, namespace: &str) -> String {
        if self.namespaced && !namespace.is_empty() {
            format!("{}{namespace}/", self.prefix)
        } else {
            self.prefix.to_string()
        }
    }
}

/// The store's prefix of a resource.
pub(crate) fn prefix(group: &str, plural: &str) -> Arc<str> {
    let group = if group.is_empty() { "core" } else { group };
    format!("/registry/{group}/{plural}/").into()
}

/// All kinds, in the order in which discovery names them.
pub(crate) struct Kinds {
    all: Vec<Arc<Kind>>,
    by_resource: HashMap<(String, String, String), Arc<Kind>>,
}

impl Kinds {
    pub(crate) fn built_in() -> Self {
        let all: Vec<Arc<Kind>> = rows::ROWS.iter().map(|row| Arc::new(row.kind())).collect();
        let by_resource = all
            .iter()
            .map(|k| ((k.group.clone(), k.version.clone(), k.plural.clone()), Arc::clone(k)))
            .collect();
        Self { all, by_resource }
    }

    pub(crate) fn all(&self) -> &[Arc<Kind>] {
        &self.all
    }

    pub(crate) fn find(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<Kind>> {
        self.by_resource.get(&(group.to_owned(), version.to_owned(), plural.to_owned()))
    }

    pub(crate) fn of_gvk(&self, gvk: &Gvk) -> Option<&Arc<Kind>> {
        self.all
            .iter()
            .find(|k| k.kind == gvk.kind && k.group == gvk.group && k.version == gvk.version)
    }

    /// Groups with their versions, preferred first; the core group is first and named "".
    pub(crate) fn groups(&self) -> Vec<(&str, Vec<&str>)> {
        let mut groups: Vec<(&str, Vec<&str>)> = Vec::new();
        for kind in &self.all {
            let versions = match groups.iter_mut().find(|(group, _)| *group == kind.group) {
                Some((_, versions)) => versions,
                None => {
                    groups.push((&kind.group, Vec::new()));
                    &mut groups.last_mut().expect("it was just pushed").1
                }
            };
            if !versions.contains(&kind.version.as_str()) {
                versions.push(&kind.version);
            }
        }
        groups
    }
}

/// A built-in kind before it becomes a [`Kind`].
pub(super) struct Row {
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    plural: &'static str,
    short: &'static [&'static str],
    flags: &'static [Flag],
    subresources: &'static [&'static str],
    strategy: &'static dyn Strategy,
}

/// What sets a row apart from a plain namespaced kind.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Flag {
    /// Not in a namespace.
    Cluster,
    /// Counts generations.
    Generation,
    /// Shown by `kubectl get all`.
    All,
    /// Only `create` is served: a question, not an object.
    CreateOnly,
    /// Objects lie in the store as another version.
    StoredAs(&'static str, &'static str),
}

const VERBS: &[&str] =
    &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

/// Every field that any kind's selector may name.
const SELECTABLE: &[&str] = &[
    "involvedObject.apiVersion",
    "involvedObject.fieldPath",
    "involvedObject.kind",
    "involvedObject.name",
    "involvedObject.namespace",
    "involvedObject.resourceVersion",
    "involvedObject.uid",
    "metadata.name",
    "metadata.namespace",
    "reason",
    "regarding.apiVersion",
    "regarding.fieldPath",
    "regarding.kind",
    "regarding.name",
    "regarding.namespace",
    "regarding.resourceVersion",
    "regarding.uid",
    "reportingComponent",
    "reportingController",
    "source",
    "spec.clusterIP",
    "spec.hostNetwork",
    "spec.ipAddress",
    "spec.nodeName",
    "spec.parentRef",
    "spec.restartPolicy",
    "spec.schedulerName",
    "spec.serviceAccountName",
    "spec.signerName",
    "spec.type",
    "spec.unschedulable",
    "status.nominatedNodeName",
    "status.phase",
    "status.podIP",
    "status.podIPs",
    "status.replicas",
    "status.successful",
    "type",
];

impl Row {
    fn has(&self, flag: Flag) -> bool {
        self.flags.contains(&flag)
    }

    fn kind(&self) -> Kind {
        let stored = self.flags.iter().find_map(|flag| match flag {
            Flag::StoredAs(group, version) => Some((*group, *version)),
            _ => None,
        });
        let (group, version) = stored.unwrap_or((self.group, self.version));
        let storage = Gvk::new(group, version, self.kind);
        let fields = SELECTABLE
            .iter()
            .filter(|name| bowline_schema::fields::supported(&storage, name))
            .copied()
            .collect();
        Kind {
            group: self.group.into(),
            version: self.version.into(),
            kind: self.kind.into(),
            plural: self.plural.into(),
            singular: self.kind.to_lowercase(),
            short_names: self.short.iter().map(ToString::to_string).collect(),
            categories: if self.has(Flag::All) { vec!["all".into()] } else { Vec::new() },
            namespaced: !self.has(Flag::Cluster),
            verbs: if self.has(Flag::CreateOnly) { vec!["create"] } else { VERBS.to_vec() },
            subresources: self.subresources.to_vec(),
            generation: self.has(Flag::Generation),
            prefix: prefix(group, self.plural),
            storage,
            strategy: self.strategy,
            fields,
        }
    }
}

const PLAIN: &dyn Strategy = &strategy::Plain;
