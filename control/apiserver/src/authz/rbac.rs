//! Role-based access control, read from its objects into an index by subject.

use std::collections::HashMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Attributes;
use crate::authn::User;
use crate::cache::Cache;
use crate::kinds;
use crate::object::{self, text};

const GROUP: &str = "rbac.authorization.k8s.io";

/// A PolicyRule.
#[derive(Debug, Clone, Default, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Rule {
    pub(crate) verbs: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) api_groups: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) resources: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) resource_names: Vec<String>,
    #[serde(rename = "nonResourceURLs", skip_serializing_if = "Vec::is_empty")]
    pub(crate) non_resource_urls: Vec<String>,
}

fn has(list: &[String], wanted: &str) -> bool {
    list.iter().any(|item| item == "*" || item == wanted)
}

impl Rule {
    pub(crate) fn everything() -> Self {
        let all = || vec!["*".to_owned()];
        Self { verbs: all(), api_groups: all(), resources: all(), ..Self::default() }
    }

    pub(crate) fn every_path() -> Self {
        let all = || vec!["*".to_owned()];
        Self { verbs: all(), non_resource_urls: all(), ..Self::default() }
    }

    pub(crate) fn allows(&self, wanted: &Attributes) -> bool {
        if !has(&self.verbs, &wanted.verb) {
            return false;
        }
        if let Some(path) = &wanted.path {
            return self.non_resource_urls.iter().any(|url| match url.strip_suffix('*') {
                Some(prefix) => path.starts_with(prefix),
                None => url == path,
            });
        }
        has(&self.api_groups, &wanted.group)
            && self.has_resource(&wanted.resource, &wanted.subresource)
            && (self.resource_names.is_empty() || self.resource_names.contains(&wanted.name))
    }

    fn has_resource(&self, resource: &str, subresource: &str) -> bool {
        self.resources.iter().any(|item| match item.split_once('/') {
            _ if item == "*" => true,
            None => subresource.is_empty() && item == resource,
            Some(("*", sub)) => sub == subresource,
            Some((of, sub)) => of == resource && sub == subresource,
        })
    }

    /// Whether all that this rule allows is allowed by others, piece by piece.
    pub(crate) fn is_covered_by(&self, others: &[Self]) -> bool {
        let any = vec![String::new()];
        let names = if self.resource_names.is_empty() { &any } else { &self.resource_names };
        let paths = self.non_resource_urls.iter().map(|path| (Some(path), "", "", ""));
        let resources = self.api_groups.iter().flat_map(|group| {
            let of = self.resources.iter().map(move |resource| (group, resource));
            of.flat_map(|(group, resource)| {
                names
                    .iter()
                    .map(move |name| (None, group.as_str(), resource.as_str(), name.as_str()))
            })
        });
        let mut pieces = resources.chain(paths);
        pieces.all(|(path, group, resource, name)| {
            let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
            self.verbs.iter().all(|verb| {
                let wanted = Attributes {
                    verb: verb.clone(),
                    group: group.to_owned(),
                    resource: resource.to_owned(),
                    subresource: subresource.to_owned(),
                    name: name.to_owned(),
                    path: path.cloned(),
                    ..Attributes::default()
                };
                others.iter().any(|other| other.allows(&wanted))
            })
        })
    }
}

/// One role given to one subject.
struct Grant {
    rules: Arc<Vec<Rule>>,
    /// Empty: everywhere.
    namespace: String,
    why: String,
}

/// The RBAC objects at some moment.
#[derive(Default)]
pub(super) struct Snapshot {
    pub(super) revision: u64,
    /// By `u:<user>` and `g:<group>`.
    grants: HashMap<String, Vec<Grant>>,
}

impl Snapshot {
    /// The revision of the newest change of any RBAC object.
    pub(super) fn changed(cache: &Cache) -> u64 {
        let resources = ["roles", "rolebindings", "clusterroles", "clusterrolebindings"];
        let changed = resources.iter().map(|r| cache.changed(&kinds::prefix(GROUP, r)));
        changed.max().unwrap_or(0)
    }

    pub(super) fn build(cache: &Cache, revision: u64) -> Self {
        let all = |resource| cache.all(&kinds::prefix(GROUP, resource));
        let roles = |resource| -> HashMap<String, Arc<Vec<Rule>>> {
            let objects = all(resource).into_iter().map(|entry| entry.value());
            let place =
                |role: &Value| format!("{}/{}", object::namespace(role), object::name(role));
            objects.map(|role| (place(&role), Arc::new(rules(&role)))).collect()
        };
        let (cluster_roles, roles) = (roles("clusterroles"), roles("roles"));
        let mut snapshot = Self { revision, grants: HashMap::new() };
        for (kind, resource) in
            [("ClusterRoleBinding", "clusterrolebindings"), ("RoleBinding", "rolebindings")]
        {
            for entry in all(resource) {
                let binding = entry.value();
                let role = text(&binding, "/roleRef/name");
                let rules = match text(&binding, "/roleRef/kind") {
                    "ClusterRole" => cluster_roles.get(&format!("/{role}")),
                    _ => roles.get(&format!("{}/{role}", object::namespace(&binding))),
                };
                if let Some(rules) = rules {
                    snapshot.grant(kind, &binding, rules);
                }
            }
        }
        snapshot
    }

    fn grant(&mut self, kind: &str, binding: &Value, rules: &Arc<Vec<Rule>>) {
        let namespace = object::namespace(binding).to_owned();
        let (role_kind, role) = (text(binding, "/roleRef/kind"), text(binding, "/roleRef/name"));
        let place = match namespace.as_str() {
            "" => object::name(binding).to_owned(),
            space => format!("{}/{space}", object::name(binding)),
        };
        for subject in object::items(binding, "/subjects") {
            let (of, name) = (text(subject, "/kind"), text(subject, "/name"));
            let space = match text(subject, "/namespace") {
                "" => &namespace,
                given => given,
            };
            let (key, shown) = match of {
                "Group" => (format!("g:{name}"), name.to_owned()),
                "ServiceAccount" => {
                    (format!("u:system:serviceaccount:{space}:{name}"), format!("{name}/{space}"))
                }
                _ => (format!("u:{name}"), name.to_owned()),
            };
            let why = format!(
                "RBAC: allowed by {kind} \"{place}\" of {role_kind} \"{role}\" to {of} \"{shown}\""
            );
            let grant = Grant { rules: Arc::clone(rules), namespace: namespace.clone(), why };
            self.grants.entry(key).or_default().push(grant);
        }
    }

    fn of(&self, user: &User) -> impl Iterator<Item = &Grant> {
        let keys = std::iter::once(format!("u:{}", user.name))
            .chain(user.groups.iter().map(|group| format!("g:{group}")));
        keys.filter_map(|key| self.grants.get(&key)).flatten()
    }

    pub(super) fn allows(&self, user: &User, wanted: &Attributes) -> Option<String> {
        let applies = |grant: &&Grant| {
            grant.namespace.is_empty()
                || (wanted.path.is_none() && grant.namespace == wanted.namespace)
        };
        let mut grants = self.of(user).filter(applies);
        let found = grants.find(|grant| grant.rules.iter().any(|rule| rule.allows(wanted)));
        found.map(|grant| grant.why.clone())
    }

    pub(super) fn rules(&self, user: &User, namespace: &str) -> Vec<Rule> {
        let applies = |grant: &&Grant| grant.namespace.is_empty() || grant.namespace == namespace;
        self.of(user).filter(applies).flat_map(|grant| grant.rules.iter().cloned()).collect()
    }
}

/// The rules of an object; rules that can't be read grant nothing.
pub(crate) fn rules(role: &Value) -> Vec<Rule> {
    let rules = role.get("rules").filter(|rules| !rules.is_null());
    rules.and_then(|rules| Vec::deserialize(rules).ok()).unwrap_or_default()
}
