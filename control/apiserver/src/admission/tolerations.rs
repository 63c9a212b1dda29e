//! Pods stay on a node that is lost for five minutes, unless they say otherwise.

use bowline_api::names::{TAINT_NOT_READY, TAINT_UNREACHABLE};
use serde_json::{Value, json};

use crate::object::{child, items, text};

const SECONDS: u64 = 300;

pub(super) fn apply(pod: &mut Value) {
    for taint in [TAINT_NOT_READY, TAINT_UNREACHABLE] {
        let mut own = items(pod, "/spec/tolerations").iter();
        let covered = own.any(|toleration| {
            let (key, effect) = (text(toleration, "/key"), text(toleration, "/effect"));
            (key == taint || key.is_empty()) && matches!(effect, "" | "NoExecute")
        });
        if !covered
            && let Some(list) =
                child(pod, "spec").entry("tolerations").or_insert(json!([])).as_array_mut()
        {
            list.push(json!({"key": taint, "operator": "Exists", "effect": "NoExecute",
                             "tolerationSeconds": SECONDS}));
        }
    }
}
