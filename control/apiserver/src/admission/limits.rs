//! LimitRanges: defaults and bounds of the containers' resources.

use bowline_api::quantity::Quantity;
use serde_json::{Map, Value};

use crate::kinds;
use crate::object::{as_map, child, items, text};
use crate::rest::Call;
use crate::status::{ApiError, ApiResult};

pub(super) fn apply(call: &Call, pod: &mut Value) -> ApiResult<()> {
    let prefix = format!("{}{}/", kinds::prefix("", "limitranges"), call.target.namespace);
    for range in call.app.cache.all(&prefix) {
        let range = range.value();
        for limit in
            items(&range, "/spec/limits").iter().filter(|l| text(l, "/type") == "Container")
        {
            set_defaults(pod, limit);
            check(call, pod, limit)?;
        }
    }
    Ok(())
}

fn set_defaults(pod: &mut Value, limit: &Value) {
    let spec = child(pod, "spec");
    for list in ["initContainers", "containers"] {
        let containers = spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten();
        for container in containers {
            let resources = child(container, "resources");
            for (into, from) in [("limits", "default"), ("requests", "defaultRequest")] {
                let given = limit.get(from).and_then(Value::as_object);
                let given = given.filter(|given| !given.is_empty());
                // A limit without a request stands for both, before a default request would.
                let limits = resources.get("limits").cloned();
                let Some(given) = given else { continue };
                let map =
                    as_map(resources.entry(into).or_insert_with(|| Value::Object(Map::new())));
                for (name, amount) in given {
                    let own = limits.as_ref().filter(|_| into == "requests");
                    let own = own.and_then(|limits| limits.get(name));
                    let amount = if from == "defaultRequest" {
                        own.filter(|own| less(own, amount)).unwrap_or(amount)
                    } else {
                        amount
                    };
                    map.entry(name.clone()).or_insert_with(|| amount.clone());
                }
            }
        }
    }
}

fn quantity(value: &Value) -> Option<Quantity> {
    match value {
        Value::String(text) => text.parse().ok(),
        other => other.to_string().parse().ok(),
    }
}

fn less(left: &Value, right: &Value) -> bool {
    matches!((quantity(left), quantity(right)), (Some(left), Some(right)) if left < right)
}

fn check(call: &Call, pod: &Value, limit: &Value) -> ApiResult<()> {
    let containers =
        items(pod, "/spec/initContainers").iter().chain(items(pod, "/spec/containers"));
    for container in containers {
        for (bound, field) in [("min", "requests"), ("max", "limits")] {
            for (name, wanted) in limit.get(bound).and_then(Value::as_object).into_iter().flatten()
            {
                let given = container.pointer(&format!("/resources/{field}/{name}"));
                let broken = match given {
                    None => true,
                    Some(given) if bound == "min" => less(given, wanted),
                    Some(given) => less(wanted, given),
                };
                if broken {
                    let usage = if bound == "min" { "minimum" } else { "maximum" };
                    let shown = given.and_then(Value::as_str);
                    let shown = shown.map_or_else(
                        || format!("no {} is specified", field.trim_end_matches('s')),
                        |given| format!("{} is {given}", field.trim_end_matches('s')),
                    );
                    let wanted = wanted.as_str().unwrap_or_default();
                    return Err(ApiError::refused(
                        &call.kind,
                        pod,
                        &format!("{usage} {name} usage per Container is {wanted}, but {shown}"),
                    ));
                }
            }
        }
    }
    Ok(())
}
