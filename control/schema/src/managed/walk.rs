//! From values to sets of paths: what an object says, and how two objects differ.

use serde_json::{Map, Value};

use super::set::Set;
use crate::Gvk;
use crate::types::{Facts, ListType, Shape, types};

/// What the schema says of one place in an object.
#[derive(Clone, Copy)]
pub(crate) struct Node {
    shape: Option<&'static Shape>,
    facts: Option<&'static Facts>,
    /// The root structure; its shape is not in any field.
    root: Option<crate::types::DefinitionId>,
}

/// How a value divides into separately owned parts.
pub(crate) enum Parts<'v> {
    /// One value: a scalar, or an atomic list or map.
    Whole,
    /// A structure or map: each field on its own.
    Fields(&'v Map<String, Value>),
    /// A list of items with keys, or a set: each with its path element.
    Items(Vec<(String, &'v Value)>),
}

impl Node {
    pub(crate) fn root(gvk: &Gvk) -> Self {
        Self { shape: None, facts: None, root: types().kind(gvk) }
    }

    pub(crate) fn field(self, name: &str) -> Self {
        let definition = self.root.or(match self.shape {
            Some(Shape::Struct(id)) => Some(*id),
            _ => None,
        });
        let field = definition.and_then(|id| types().get(id).field(name));
        match (field, self.shape) {
            (Some(field), _) => {
                Self { shape: Some(&field.shape), facts: Some(&field.facts), root: None }
            }
            (None, Some(Shape::Map(values))) => {
                Self { shape: Some(values), facts: None, root: None }
            }
            // Without a schema, maps divide and lists don't.
            _ => Self { shape: None, facts: None, root: None },
        }
    }

    pub(crate) fn item(self) -> Self {
        let shape = match self.shape {
            Some(Shape::List(item)) => Some(&**item),
            _ => None,
        };
        Self { shape, facts: None, root: None }
    }

    pub(crate) fn parts(self, value: &Value) -> Parts<'_> {
        match value {
            Value::Object(map) if !self.is_atomic_map() => Parts::Fields(map),
            Value::Array(items) => match self.facts.map(|f| &f.list) {
                Some(ListType::Map(keys)) => Parts::Items(
                    items.iter().map(|item| (self.key_element(keys, item), item)).collect(),
                ),
                Some(ListType::Set) => {
                    Parts::Items(items.iter().map(|item| (format!("v:{item}"), item)).collect())
                }
                _ => Parts::Whole,
            },
            _ => Parts::Whole,
        }
    }

    fn is_atomic_map(self) -> bool {
        match self.shape {
            Some(Shape::Struct(id)) => types().get(*id).atomic,
            Some(Shape::Any) => true,
            _ => self.facts.is_some_and(|f| f.atomic_map),
        }
    }

    /// `k:{"containerPort":80,"protocol":"TCP"}`; an absent key has its published default.
    fn key_element(self, keys: &[&'static str], item: &Value) -> String {
        let values: Map<String, Value> = keys
            .iter()
            .map(|key| {
                let given = item.get(*key).filter(|v| !v.is_null()).cloned();
                let value = given.or_else(|| self.item().key_default(key)).unwrap_or(Value::Null);
                ((*key).to_owned(), value)
            })
            .collect();
        format!("k:{}", Value::Object(values))
    }

    fn key_default(self, key: &str) -> Option<Value> {
        self.field(key).facts?.default.map(Value::from)
    }

    /// Why a list's items can't be told apart, if they can't: a key without value, or one twice.
    pub(crate) fn key_problem(self, value: &Value) -> Option<String> {
        let Parts::Items(mut items) = self.parts(value) else { return None };
        for (element, _) in items.iter().filter(|(e, _)| e.starts_with("k:")) {
            let keys: Map<String, Value> = serde_json::from_str(&element[2..]).ok()?;
            if let Some((key, _)) = keys.iter().find(|(_, v)| v.is_null()) {
                return Some(format!(
                    "associative list with keys has an element that omits key field {key:?} (and \
                     doesn't have default value)"
                ));
            }
        }
        items.sort_by(|a, b| a.0.cmp(&b.0));
        let twice = items.windows(2).find(|pair| pair[0].0 == pair[1].0)?;
        Some(format!("duplicate entries for key {}", &twice[0].0[2..]))
    }
}

/// The paths that a configuration speaks of.
pub(crate) fn owned(node: Node, value: &Value) -> Set {
    let mut set = Set::default();
    match node.parts(value) {
        Parts::Whole => set.member = true,
        Parts::Fields(map) => {
            set.member = map.is_empty();
            for (name, value) in map {
                let mut child = owned(node.field(name), value);
                child.member |= matches!(node.shape, Some(Shape::Map(_)));
                set.put(format!("f:{name}"), child);
            }
        }
        Parts::Items(items) => {
            set.member = items.is_empty();
            for (element, item) in items {
                let mut child = owned(node.item(), item);
                child.member = true;
                set.put(element, child);
            }
        }
    }
    set
}

/// Every path of a value, containers too.
fn everything(node: Node, value: &Value) -> Set {
    let mut set = Set::leaf();
    match node.parts(value) {
        Parts::Whole => {}
        Parts::Fields(map) => {
            for (name, value) in map {
                set.put(format!("f:{name}"), everything(node.field(name), value));
            }
        }
        Parts::Items(items) => {
            for (element, item) in items {
                set.put(element, everything(node.item(), item));
            }
        }
    }
    set
}

/// How one object differs from another.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Changes {
    /// Added, or with another value.
    pub changed: Set,
    pub removed: Set,
}

impl Changes {
    pub(crate) fn is_empty(&self) -> bool {
        self.changed.is_empty() && self.removed.is_empty()
    }
}

pub(crate) fn compare(node: Node, old: &Value, new: &Value) -> Changes {
    if old == new {
        return Changes::default();
    }
    match (node.parts(old), node.parts(new)) {
        (Parts::Fields(old), Parts::Fields(new)) => {
            let pairs = old.iter().map(|(name, value)| (format!("f:{name}"), name, value));
            let find = |name: &String| new.get(name);
            let mut changes = Changes::default();
            for (element, name, value) in pairs {
                changes.add(element, node.field(name), Some(value), find(name));
            }
            for (name, value) in new.iter().filter(|(name, _)| !old.contains_key(*name)) {
                changes.add(format!("f:{name}"), node.field(name), None, Some(value));
            }
            changes
        }
        (Parts::Items(old), Parts::Items(new)) => {
            let find = |list: &[(String, &Value)], element: &str| -> Option<Value> {
                list.iter().find(|(e, _)| e == element).map(|(_, v)| (*v).clone())
            };
            let mut changes = Changes::default();
            for (element, value) in &old {
                let other = find(&new, element);
                changes.add(element.clone(), node.item(), Some(value), other.as_ref());
            }
            for (element, value) in new.iter().filter(|(e, _)| find(&old, e).is_none()) {
                changes.add(element.clone(), node.item(), None, Some(value));
            }
            changes
        }
        _ => Changes { changed: everything(node, new), removed: Set::default() },
    }
}

impl Changes {
    fn add(&mut self, element: String, node: Node, old: Option<&Value>, new: Option<&Value>) {
        match (old, new) {
            (Some(old), Some(new)) => {
                let inner = compare(node, old, new);
                self.changed.put(element.clone(), inner.changed);
                self.removed.put(element, inner.removed);
            }
            (None, Some(new)) => self.changed.put(element, everything(node, new)),
            (Some(old), None) => self.removed.put(element, everything(node, old)),
            (None, None) => {}
        }
    }
}
