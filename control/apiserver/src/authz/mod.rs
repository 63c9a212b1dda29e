//! Whether a user may do what is asked: RBAC, kubelets for their own nodes, and `system:masters` who
//! may do all.

mod node;
mod rbac;

use std::sync::Arc;

use parking_lot::Mutex;

use crate::authn::{MASTERS, User};
use crate::cache::Cache;
use crate::status::{ApiError, ApiResult};

pub(crate) use node::refers;
use rbac::Snapshot;
pub(crate) use rbac::{Rule, rules};

/// What is asked for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Attributes {
    pub(crate) verb: String,
    pub(crate) group: String,
    pub(crate) resource: String,
    pub(crate) subresource: String,
    pub(crate) namespace: String,
    /// For a list or watch the one name to which the field selector confines it.
    pub(crate) name: String,
    /// The one node to which a field selector confines a list or watch of pods.
    pub(crate) node: String,
    /// Set for what is no resource; all but `verb` is empty then.
    pub(crate) path: Option<String>,
}

/// Answers from the RBAC objects in the cache.
pub(crate) struct Authorizer {
    cache: Arc<Cache>,
    snapshot: Mutex<Arc<Snapshot>>,
}

impl Authorizer {
    pub(crate) fn new(cache: Arc<Cache>) -> Self {
        Self { cache, snapshot: Mutex::default() }
    }

    /// The rules as they are now: built again only when an RBAC object has changed.
    fn snapshot(&self) -> Arc<Snapshot> {
        let changed = Snapshot::changed(&self.cache);
        let mut snapshot = self.snapshot.lock();
        if snapshot.revision != changed {
            *snapshot = Arc::new(Snapshot::build(&self.cache, changed));
        }
        Arc::clone(&snapshot)
    }

    /// Why it is allowed; `None` if it is not.
    pub(crate) fn allows(&self, user: &User, wanted: &Attributes) -> Option<String> {
        if user.is_in(MASTERS) {
            return Some(String::new());
        }
        let of_node = user.node().is_some_and(|node| node::allows(&self.cache, node, wanted));
        if of_node { Some(String::new()) } else { self.snapshot().allows(user, wanted) }
    }

    pub(crate) fn authorize(&self, user: &User, wanted: &Attributes) -> ApiResult<()> {
        match self.allows(user, wanted) {
            Some(_) => Ok(()),
            None => Err(ApiError::forbidden(refusal(user, wanted))),
        }
    }

    /// All rules that apply to a user in a namespace.
    pub(crate) fn rules(&self, user: &User, namespace: &str) -> Vec<Rule> {
        let mut rules = self.snapshot().rules(user, namespace);
        if user.is_in(MASTERS) {
            rules.push(Rule::everything());
            rules.push(Rule::every_path());
        }
        rules
    }

    /// Whether the user holds everything that `rules` grant in the namespace (empty: everywhere),
    /// so that they may hand them on.
    pub(crate) fn covers(&self, user: &User, namespace: &str, rules: &[Rule]) -> bool {
        user.is_in(MASTERS) || {
            let own = self.snapshot().rules(user, namespace);
            rules.iter().all(|rule| rule.is_covered_by(&own))
        }
    }
}

/// The message of a 403, as clients and users know it.
fn refusal(user: &User, wanted: &Attributes) -> String {
    let who = &user.name;
    let verb = &wanted.verb;
    if let Some(path) = &wanted.path {
        return format!("forbidden: User \"{who}\" cannot {verb} path \"{path}\"");
    }
    let (resource, group) = (&wanted.resource, &wanted.group);
    let full = match wanted.subresource.as_str() {
        "" => resource.clone(),
        sub => format!("{resource}/{sub}"),
    };
    let qualified = if group.is_empty() { resource.clone() } else { format!("{resource}.{group}") };
    let subject = match wanted.name.as_str() {
        "" => qualified,
        name => format!("{qualified} \"{name}\""),
    };
    let place = match wanted.namespace.as_str() {
        "" => "at the cluster scope".to_owned(),
        namespace => format!("in the namespace \"{namespace}\""),
    };
    format!(
        "{subject} is forbidden: User \"{who}\" cannot {verb} resource \"{full}\" in API group \
         \"{group}\" {place}"
    )
}
