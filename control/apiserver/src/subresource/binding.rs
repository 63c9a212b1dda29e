//! `binding`: the scheduler's decision.

use bowline_schema::Gvk;
use bytes::Bytes;
use serde_json::{Value, json};

use crate::object::{self, child, items, text};
use crate::reply::{self, Reply};
use crate::rest::write::{self, Step};
use crate::rest::{Call, decode};
use crate::status::{ApiError, ApiResult};

pub(super) async fn bind(call: &Call, body: &Bytes) -> ApiResult<Reply> {
    let binding = decode::of_kind(call, &Gvk::new("", "v1", "Binding"), body)?;
    let node = text(&binding, "/target/name").to_owned();
    if node.is_empty() || !matches!(text(&binding, "/target/kind"), "" | "Node") {
        return Err(ApiError::bad_request("a binding's target must be a Node with a name"));
    }
    let pods = call.app.kinds.find("", "v1", "pods").ok_or_else(ApiError::no_route)?;
    let name = match call.target.name.as_str() {
        "" => object::name(&binding).to_owned(),
        name => name.to_owned(),
    };
    let call = Call { kind: pods.clone(), ..call.sibling(&name) };
    let uid = object::uid(&binding).to_owned();
    write::change(&call, &name, |old| {
        let old = old.ok_or_else(|| ApiError::not_found(pods, &name))?;
        assign(&call, old, &node, &uid, &binding)
    })
    .await?;
    let done = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
                      "code": 201});
    Ok(reply::json(201, &done))
}

fn assign(call: &Call, old: &Value, node: &str, uid: &str, binding: &Value) -> ApiResult<Step> {
    let refuse = |why: &str| Err(ApiError::conflict(&call.kind, object::name(old), why));
    if !uid.is_empty() && uid != object::uid(old) {
        return refuse("Precondition failed: the pod was deleted and made anew");
    }
    if object::is_deleting(old) {
        return refuse("pod is being deleted, cannot be assigned to a host");
    }
    let present = text(old, "/spec/nodeName");
    if !present.is_empty() {
        return refuse(&format!(
            "pod {} is already assigned to node \"{present}\"",
            object::name(old)
        ));
    }
    if !items(old, "/spec/schedulingGates").is_empty() {
        return refuse("pod has non-empty .spec.schedulingGates");
    }
    let mut new = old.clone();
    child(&mut new, "spec").insert("nodeName".into(), node.into());
    let notes = binding.pointer("/metadata/annotations").and_then(Value::as_object);
    if let Some(notes) = notes.filter(|notes| !notes.is_empty()) {
        let own = object::metadata(&mut new).entry("annotations").or_insert(Value::Null);
        object::as_map(own).extend(notes.clone());
    }
    let conditions = child(&mut new, "status").entry("conditions").or_insert_with(|| json!([]));
    if let Some(list) = conditions.as_array_mut() {
        list.retain(|condition| text(condition, "/type") != "PodScheduled");
        list.push(json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null,
                         "lastTransitionTime": object::now()}));
    }
    Ok(Step::Put(new))
}
