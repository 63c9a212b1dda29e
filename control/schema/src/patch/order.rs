//! `$setElementOrder`: the order of a merged list.

use serde_json::Value;

/// Orders `items` (the merged list): those that `wanted` names as `wanted` has them, the others as the
/// server had them (`server`), an other before a wanted one only where the server had it so. `same`
/// compares two items, or an item with an entry of `wanted`.
pub(crate) fn arrange(
    items: Vec<Value>,
    wanted: &[Value],
    server: &[Value],
    same: impl Fn(&Value, &Value) -> bool,
) -> Vec<Value> {
    let position = |list: &[Value], item: &Value| list.iter().position(|other| same(other, item));
    let (mut named, mut others): (Vec<_>, Vec<_>) =
        items.into_iter().partition(|item| position(wanted, item).is_some());
    named.sort_by_key(|item| position(wanted, item));
    others.sort_by_key(|item| position(server, item).unwrap_or(usize::MAX));

    let mut out = Vec::with_capacity(named.len() + others.len());
    let mut others = others.into_iter().peekable();
    for item in named {
        let limit = position(server, &item);
        while let Some(other) = others.peek() {
            let earlier = match (position(server, other), limit) {
                (Some(other), Some(limit)) => other < limit,
                _ => false,
            };
            if !earlier {
                break;
            }
            out.extend(others.next());
        }
        out.push(item);
    }
    out.extend(others);
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn named_items_follow_the_client_and_others_the_server() {
        let list = |v: Value| v.as_array().cloned().unwrap();
        let run = |items, wanted, server| {
            Value::Array(arrange(list(items), &list(wanted), &list(server), |a, b| a == b))
        };
        assert_eq!(run(json!([1, 2, 3]), json!([3, 1]), json!([1, 2, 3])), json!([2, 3, 1]));
        assert_eq!(run(json!([1, 2, 3]), json!([1, 3]), json!([1, 2, 3])), json!([1, 2, 3]));
        assert_eq!(run(json!([9, 1, 4]), json!([4, 1]), json!([9, 1])), json!([4, 9, 1]));
    }
}
