//! The two halves of an apply: lay the configuration over the live object, and take away what the manager
//! no longer says and nobody else does.

use serde_json::{Map, Value};

use crate::managed::set::Set;
use crate::managed::walk::{Node, Parts};
use crate::patch::arrange;

/// `config` over `live`.
pub(super) fn merge(node: Node, live: &Value, config: &Value) -> Value {
    match (node.parts(live), node.parts(config)) {
        (Parts::Fields(live), Parts::Fields(config)) => {
            let mut out = live.clone();
            for (name, value) in config {
                let merged = match live.get(name) {
                    Some(old) => merge(node.field(name), old, value),
                    None => value.clone(),
                };
                out.insert(name.clone(), merged);
            }
            Value::Object(out)
        }
        (Parts::Items(live), Parts::Items(config)) => {
            Value::Array(merge_items(node, &live, &config))
        }
        _ => config.clone(),
    }
}

fn merge_items(node: Node, live: &[(String, &Value)], config: &[(String, &Value)]) -> Vec<Value> {
    let mut merged: Vec<(String, Value)> = Vec::new();
    for (element, value) in live {
        let value = match config.iter().find(|(e, _)| e == element) {
            Some((_, new)) => merge(node.item(), value, new),
            None => (*value).clone(),
        };
        merged.push((element.clone(), value));
    }
    for (element, value) in config {
        if !merged.iter().any(|(e, _)| e == element) {
            merged.push((element.clone(), (*value).clone()));
        }
    }
    // The order is found by path elements, so that it holds for keys and for plain values.
    let names = |list: &mut dyn Iterator<Item = &String>| -> Vec<Value> {
        list.map(|e| Value::String(e.clone())).collect()
    };
    let order = arrange(
        names(&mut merged.iter().map(|(e, _)| e)),
        &names(&mut config.iter().map(|(e, _)| e)),
        &names(&mut live.iter().map(|(e, _)| e)),
        |a, b| a == b,
    );
    let position = |element: &str| order.iter().position(|o| o == element);
    merged.sort_by_key(|(element, _)| position(element));
    merged.into_iter().map(|(_, value)| value).collect()
}

/// `value` without what `last` (the manager's previous set) has and `owned` (everybody's sets now) hasn't.
/// `None` if nothing is left of a container.
pub(super) fn prune(node: Node, value: &Value, last: &Set, owned: Option<&Set>) -> Option<Value> {
    match node.parts(value) {
        Parts::Whole => (owned.is_some_and(|o| o.member) || !last.member).then(|| value.clone()),
        Parts::Fields(map) => {
            let kept: Map<String, Value> = map
                .iter()
                .filter_map(|(name, value)| {
                    let element = format!("f:{name}");
                    let kept = prune_child(node.field(name), &element, value, last, owned)?;
                    Some((name.clone(), kept))
                })
                .collect();
            keep(Value::Object(kept.clone()), kept.is_empty(), map.is_empty(), last, owned)
        }
        Parts::Items(items) => {
            let kept: Vec<Value> = items
                .iter()
                .filter_map(|(element, item)| {
                    let was = last.child(element).is_some_and(|s| s.member);
                    let is = owned.and_then(|o| o.child(element)).is_some_and(|s| s.member);
                    if was && !is {
                        return None;
                    }
                    // An item that stays is kept with its keys, whatever else goes.
                    match prune_child(node.item(), element, item, last, owned) {
                        Some(kept) => Some(kept),
                        None => Some((*item).clone()),
                    }
                })
                .collect();
            let empty = kept.is_empty();
            keep(Value::Array(kept), empty, items.is_empty(), last, owned)
        }
    }
}

fn prune_child(
    node: Node,
    element: &str,
    value: &Value,
    last: &Set,
    owned: Option<&Set>,
) -> Option<Value> {
    match last.child(element) {
        Some(last) => prune(node, value, last, owned.and_then(|o| o.child(element))),
        None => Some(value.clone()),
    }
}

/// A container that lost its last part goes too, unless somebody owns it as such.
fn keep(
    value: Value,
    empty: bool,
    was_empty: bool,
    last: &Set,
    owned: Option<&Set>,
) -> Option<Value> {
    let owned = owned.is_some_and(|o| o.member);
    let gone = if was_empty { last.member } else { empty };
    (owned || !gone).then_some(value)
}
