//! `eviction`: a deletion that asks the pod's disruption budget first (KEP-85).

use bowline_api::selector::LabelSelector;
use bowline_schema::Gvk;
use bytes::Bytes;
use serde_json::{Value, json};

use crate::kinds;
use crate::object::{self, child, text};
use crate::reply::{self, Reply};
use crate::rest::delete::{self, Options};
use crate::rest::write::{self, Step};
use crate::rest::{Call, decode};
use crate::status::{ApiError, ApiResult};
use crate::strategy::{is_ready, is_terminal};

/// Pods whose disruption a budget may still be told of; more wait for its controller.
const MAX_DISRUPTED: usize = 2000;

pub(super) async fn evict(call: &Call, body: &Bytes) -> ApiResult<Reply> {
    let eviction = decode::of_kind(call, &Gvk::new("policy", "v1", "Eviction"), body)?;
    let named = object::name(&eviction);
    if !named.is_empty() && named != call.target.name {
        return Err(ApiError::bad_request("name in URL does not match name in Eviction object"));
    }
    let options = eviction.get("deleteOptions").cloned().unwrap_or_else(|| json!({}));
    let options: Options = serde_json::from_value(options)
        .map_err(|error| ApiError::bad_request(format!("cannot read deleteOptions: {error}")))?;
    let entry = call.app.cache.get(&call.key()).ok_or_else(|| call.not_found())?;
    let pod = entry.value();
    let needs_no_budget =
        is_terminal(&pod) || text(&pod, "/status/phase") == "Pending" || object::is_deleting(&pod);
    if !needs_no_budget {
        ask_budget(call, &pod).await?;
    }
    delete::remove(call, &call.target.name, &options).await?;
    let done = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
                      "code": 201});
    Ok(reply::json(201, &done))
}

/// Takes one disruption off the budget that covers the pod, if there is one.
async fn ask_budget(call: &Call, pod: &Value) -> ApiResult<()> {
    let prefix =
        format!("{}{}/", kinds::prefix("policy", "poddisruptionbudgets"), call.target.namespace);
    let budgets: Vec<Value> = call.app.cache.all(&prefix).iter().map(|e| e.value()).collect();
    let covering: Vec<&Value> = budgets.iter().filter(|budget| covers(budget, pod)).collect();
    let budget = match covering.as_slice() {
        [] => return Ok(()),
        [one] => *one,
        _ => {
            return Err(ApiError::internal(
                "This pod has more than one PodDisruptionBudget, which the eviction subresource \
                 does not support.",
            ));
        }
    };
    let always = text(budget, "/spec/unhealthyPodEvictionPolicy") == "AlwaysAllow";
    let number = |pointer: &str| budget.pointer(pointer).and_then(Value::as_i64).unwrap_or(0);
    let healthy_enough = number("/status/currentHealthy") >= number("/status/desiredHealthy")
        && number("/status/desiredHealthy") > 0;
    if !is_ready(pod) && (always || healthy_enough) {
        return Ok(());
    }
    let kind = call.app.kinds.find("policy", "v1", "poddisruptionbudgets");
    let kind = kind.ok_or_else(ApiError::no_route)?.clone();
    let mut budget_call = Call { kind, ..call.sibling(object::name(budget)) };
    budget_call.target.subresource = "status".to_owned();
    let name = object::name(budget).to_owned();
    write::change(&budget_call, &name, |old| match old {
        // The budget went away meanwhile: nothing is to be kept to.
        None => Err(ApiError::not_found(&budget_call.kind, &name)),
        Some(old) => disrupt(old, object::name(pod)).map(Step::Put),
    })
    .await?;
    Ok(())
}

fn covers(budget: &Value, pod: &Value) -> bool {
    let selector = budget.pointer("/spec/selector").cloned().unwrap_or_default();
    let selector = serde_json::from_value(selector).ok();
    let selector = selector.as_ref().and_then(LabelSelector::from_object);
    let labels = pod.pointer("/metadata/labels");
    selector.is_some_and(|selector| {
        selector.matches_by(|name| labels.and_then(|l| l.get(name)).and_then(Value::as_str))
    })
}

fn disrupt(budget: &Value, pod: &str) -> ApiResult<Value> {
    let name = object::name(budget);
    let number = |pointer: &str| budget.pointer(pointer).and_then(Value::as_i64).unwrap_or(0);
    if number("/status/observedGeneration") < number("/metadata/generation") {
        return Err(ApiError::too_many(
            format!(
                "Cannot evict pod as it would violate the pod's disruption budget. The disruption \
                 budget {name} is still being processed by the server."
            ),
            Some(10),
        ));
    }
    let allowed = number("/status/disruptionsAllowed");
    let disrupted = budget.pointer("/status/disruptedPods").and_then(Value::as_object);
    if allowed <= 0 || disrupted.is_some_and(|pods| pods.len() > MAX_DISRUPTED) {
        let (needs, has) = (number("/status/desiredHealthy"), number("/status/currentHealthy"));
        return Err(ApiError::disruption_budget(&format!(
            "The disruption budget {name} needs {needs} healthy pods and has {has} currently"
        )));
    }
    let mut new = budget.clone();
    let status = child(&mut new, "status");
    status.insert("disruptionsAllowed".into(), (allowed - 1).into());
    let disrupted = status.entry("disruptedPods").or_insert_with(|| json!({}));
    object::as_map(disrupted).insert(pod.to_owned(), object::now().into());
    if let Some(conditions) = status.get_mut("conditions").and_then(Value::as_array_mut)
        && allowed == 1
    {
        for condition in conditions.iter_mut().filter(|c| text(c, "/type") == "DisruptionAllowed") {
            condition["status"] = "False".into();
        }
    }
    Ok(new)
}
