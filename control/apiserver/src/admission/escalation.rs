//! Nobody grants by RBAC what they do not hold, unless they may `escalate` or `bind`.

use serde_json::Value;

use crate::authz::{Attributes, Rule, rules};
use crate::kinds;
use crate::object::{self, text};
use crate::rest::Call;
use crate::status::{ApiError, ApiResult};

/// The roles that a cluster role is the sum of.
const AGGREGATION: &str = "aggregationRule";
const GROUP: &str = "rbac.authorization.k8s.io";

pub(super) fn check(call: &Call, old: Option<&Value>, new: &Value) -> ApiResult<()> {
    if call.kind.group != GROUP {
        return Ok(());
    }
    let granted = match call.kind.kind.as_str() {
        "Role" | "ClusterRole" => {
            let same = |name: &str| old.and_then(|old| old.get(name)) == new.get(name);
            let sums = same(AGGREGATION) || new.get(AGGREGATION).is_none();
            if (old.is_some() && same("rules") && sums)
                || may(call, "escalate", &call.kind.plural, object::name(new))
            {
                return Ok(());
            }
            // What a sum of roles will hold is for the makers of those roles to say: anything.
            if sums { rules(new) } else { vec![Rule::everything(), Rule::every_path()] }
        }
        _ => {
            if old.is_some_and(|old| old.get("subjects") == new.get("subjects")) {
                return Ok(());
            }
            let of =
                if text(new, "/roleRef/kind") == "ClusterRole" { "clusterroles" } else { "roles" };
            if may(call, "bind", of, text(new, "/roleRef/name")) {
                return Ok(());
            }
            role_rules(call, of, text(new, "/roleRef/name"))
        }
    };
    if call.app.authz.covers(&call.user, &call.target.namespace, &granted) {
        return Ok(());
    }
    let why = format!(
        "user \"{}\" (groups={:?}) is attempting to grant RBAC permissions not currently held",
        call.user.name, call.user.groups
    );
    Err(ApiError::refused(&call.kind, new, &why))
}

fn may(call: &Call, verb: &str, resource: &str, name: &str) -> bool {
    let wanted = Attributes {
        verb: verb.to_owned(),
        group: GROUP.to_owned(),
        resource: resource.to_owned(),
        namespace: call.target.namespace.clone(),
        name: name.to_owned(),
        ..Attributes::default()
    };
    call.app.authz.allows(&call.user, &wanted).is_some()
}

fn role_rules(call: &Call, resource: &str, name: &str) -> Vec<Rule> {
    let scope = match resource {
        "roles" => format!("{}/", call.target.namespace),
        _ => String::new(),
    };
    let key = format!("{}{scope}{name}", kinds::prefix(GROUP, resource));
    call.app.cache.get(&key).map(|entry| rules(&entry.value())).unwrap_or_default()
}
