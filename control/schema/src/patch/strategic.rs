//! Strategic merge patch, as the API conventions describe it: a merge patch in which lists merge by
//! the keys of the schema, with directives in the patch.
//!
//! Directives: `$patch: replace | delete | merge` in an object or list item, `$retainKeys` (clear what is
//! not named), `$deleteFromPrimitiveList/<field>`, `$setElementOrder/<field>`.

use serde_json::{Map, Value};

use super::PatchError;
use super::order::arrange;
use crate::Gvk;
use crate::types::{Facts, Shape, Strategy, types};

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";
const SET_ORDER: &str = "$setElementOrder/";

type Object = Map<String, Value>;

/// Applies a strategic merge patch to an object of a known kind.
pub fn strategic(gvk: &Gvk, object: &Value, patch: &Value) -> Result<Value, PatchError> {
    let Some(id) = types().kind(gvk) else { return Err(PatchError::NoSchema) };
    let (Value::Object(original), Value::Object(patch)) = (object, patch) else {
        return Err(malformed("a strategic merge patch must be a JSON object"));
    };
    Ok(Value::Object(merge_object(original.clone(), patch, Some(&Shape::Struct(id)))?))
}

fn malformed(text: impl Into<String>) -> PatchError {
    PatchError::Malformed(text.into())
}

/// What the schema says of a field: its shape, and how it merges. Unknown fields merge as plain JSON.
fn field<'a>(shape: Option<&'a Shape>, name: &str) -> (Option<&'a Shape>, Option<&'static Facts>) {
    match shape {
        Some(Shape::Struct(id)) => match types().get(*id).field(name) {
            Some(field) => (Some(&field.shape), Some(&field.facts)),
            None => (None, None),
        },
        Some(Shape::Map(values)) => (Some(values), None),
        _ => (None, None),
    }
}

fn merge_object(
    mut original: Object,
    patch: &Object,
    shape: Option<&Shape>,
) -> Result<Object, PatchError> {
    if let Some(directive) = patch.get(PATCH) {
        match directive.as_str() {
            Some("replace") => {
                let mut replacement = patch.clone();
                replacement.remove(PATCH);
                return merge_object(Object::new(), &replacement, shape);
            }
            Some("delete") => return Ok(Object::new()),
            Some("merge") => {}
            _ => return Err(malformed(format!("unknown patch type found: {directive}"))),
        }
    }
    retain_keys(&mut original, patch)?;
    for (key, value) in patch {
        if key == PATCH || key == RETAIN_KEYS {
            continue;
        }
        let name = key.strip_prefix(DELETE_FROM).or(key.strip_prefix(SET_ORDER)).unwrap_or(key);
        if name != key {
            // With items in the patch, [`merge_field`] sees to their directives.
            if !patch.get(name).is_some_and(Value::is_array) {
                list_directives_alone(&mut original, patch, key, name, shape)?;
            }
            continue;
        }
        merge_field(&mut original, patch, name, value, shape)?;
    }
    Ok(original)
}

/// Directives about a list whose items the patch doesn't have.
fn list_directives_alone(
    original: &mut Object,
    patch: &Object,
    key: &str,
    name: &str,
    shape: Option<&Shape>,
) -> Result<(), PatchError> {
    let both = patch.contains_key(&format!("{DELETE_FROM}{name}"));
    if both && key.starts_with(SET_ORDER) {
        // Sorted keys: the deletion came first and has ordered what is left too.
        return Ok(());
    }
    if original.get(name).is_some_and(Value::is_array) {
        merge_field(original, patch, name, &Value::Array(Vec::new()), shape)?;
    }
    Ok(())
}

fn merge_field(
    original: &mut Object,
    patch: &Object,
    name: &str,
    value: &Value,
    shape: Option<&Shape>,
) -> Result<(), PatchError> {
    let (shape, facts) = field(shape, name);
    let strategy = facts.map(|f| f.strategy).unwrap_or_default();
    match value {
        Value::Null => {
            original.remove(name);
        }
        Value::Object(value) => {
            let replaces = strategy == Strategy::Replace;
            let old = match original.remove(name) {
                Some(Value::Object(old)) if !replaces => old,
                _ => Object::new(),
            };
            original.insert(name.to_owned(), Value::Object(merge_object(old, value, shape)?));
        }
        Value::Array(items) if strategy.merges_list() => {
            let old = match original.remove(name) {
                Some(Value::Array(old)) => old,
                _ => Vec::new(),
            };
            let item_shape = match shape {
                Some(Shape::List(item)) => Some(&**item),
                _ => None,
            };
            let list =
                List { name, patch, shape: item_shape, key: facts.and_then(|f| f.merge_key) };
            original.insert(name.to_owned(), Value::Array(list.merge(old, items)?));
        }
        other => {
            original.insert(name.to_owned(), other.clone());
        }
    }
    Ok(())
}

/// `$retainKeys`: the union's members that the patch doesn't name go.
fn retain_keys(original: &mut Object, patch: &Object) -> Result<(), PatchError> {
    let Some(keys) = patch.get(RETAIN_KEYS) else { return Ok(()) };
    let keys = keys.as_array().ok_or_else(|| malformed("$retainKeys must be a list"))?;
    let named = |key: &str| keys.iter().any(|k| k == key);
    for (key, value) in patch {
        if !key.starts_with('$') && !value.is_null() && !named(key) {
            return Err(malformed(format!("$retainKeys directive doesn't name the field {key}")));
        }
    }
    original.retain(|key, _| named(key));
    Ok(())
}

/// A list that merges item by item.
struct List<'a> {
    name: &'a str,
    /// The object around the list: it holds the list's directives.
    patch: &'a Object,
    shape: Option<&'a Shape>,
    /// `None`: a set of plain values.
    key: Option<&'static str>,
}

impl List<'_> {
    fn merge(&self, original: Vec<Value>, items: &[Value]) -> Result<Vec<Value>, PatchError> {
        let server = original.clone();
        let merged = match self.key {
            Some(key) => self.by_key(original, items, key)?,
            None => self.as_set(original, items)?,
        };
        // Without an order of its own the patch's items are wanted as they stand in it: new ones come
        // before those that it does not name.
        let wanted = self.directive(SET_ORDER)?.map_or(items, Vec::as_slice);
        let same = |a: &Value, b: &Value| match self.key {
            Some(key) => a.get(key).is_some() && a.get(key) == b.get(key),
            None => a == b,
        };
        Ok(arrange(merged, wanted, &server, same))
    }

    fn directive(&self, prefix: &str) -> Result<Option<&Vec<Value>>, PatchError> {
        match self.patch.get(&format!("{prefix}{}", self.name)) {
            None => Ok(None),
            Some(Value::Array(list)) => Ok(Some(list)),
            Some(_) => Err(malformed(format!("{prefix}{} must be a list", self.name))),
        }
    }

    fn as_set(&self, mut list: Vec<Value>, items: &[Value]) -> Result<Vec<Value>, PatchError> {
        if let Some(gone) = self.directive(DELETE_FROM)? {
            list.retain(|value| !gone.contains(value));
        }
        for item in items {
            if !list.contains(item) {
                list.push(item.clone());
            }
        }
        Ok(list)
    }

    fn by_key(
        &self,
        mut list: Vec<Value>,
        items: &[Value],
        key: &str,
    ) -> Result<Vec<Value>, PatchError> {
        // An item that is only {"$patch": "replace"} replaces the whole list by the other items.
        if items
            .iter()
            .any(|i| i.get(PATCH).is_some_and(|p| p == "replace") && i.get(key).is_none())
        {
            list.clear();
        }
        for item in items {
            let Value::Object(item) = item else {
                return Err(malformed(format!("the items of {} must be objects", self.name)));
            };
            let directive = item.get(PATCH).and_then(Value::as_str);
            let Some(id) = item.get(key) else {
                if directive == Some("replace") {
                    continue;
                }
                let text = Value::Object(item.clone());
                return Err(malformed(format!(
                    "map: {text} does not contain declared merge key: {key}"
                )));
            };
            let found = list.iter().position(|old| old.get(key) == Some(id));
            if directive == Some("delete") {
                list.retain(|old| old.get(key) != Some(id));
                continue;
            }
            let old = match found.map(|at| list[at].take()) {
                Some(Value::Object(old)) => old,
                _ => Object::new(),
            };
            let merged = Value::Object(merge_object(old, item, self.shape)?);
            match found {
                Some(at) => list[at] = merged,
                None => list.push(merged),
            }
        }
        Ok(list)
    }
}
