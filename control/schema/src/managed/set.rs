//! Sets of field paths, as `FieldsV1` writes them.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// A trie of path elements. An element is in its text form: `f:name`, `k:{"name":"x"}`, `v:1`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Set {
    /// Whether the path that ends here is in the set.
    pub member: bool,
    pub children: BTreeMap<String, Set>,
}

/// Deeper sets than this are cut off when read: no schema is so deep.
const MAX_DEPTH: usize = 64;

impl Set {
    pub(crate) fn leaf() -> Self {
        Self { member: true, children: BTreeMap::new() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        !self.member && self.children.is_empty()
    }

    pub(crate) fn child(&self, element: &str) -> Option<&Self> {
        self.children.get(element)
    }

    /// Puts a child in, unless it is empty.
    pub(crate) fn put(&mut self, element: String, child: Self) {
        if !child.is_empty() {
            self.children.insert(element, child);
        }
    }

    pub(crate) fn union(mut self, other: &Self) -> Self {
        self.member |= other.member;
        for (element, theirs) in &other.children {
            let mine = self.children.remove(element).unwrap_or_default();
            self.children.insert(element.clone(), mine.union(theirs));
        }
        self
    }

    /// The members of `self` that aren't members of `other`.
    pub(crate) fn difference(&self, other: &Self) -> Self {
        let mut out = Self { member: self.member && !other.member, children: BTreeMap::new() };
        for (element, mine) in &self.children {
            let left = match other.child(element) {
                Some(theirs) => mine.difference(theirs),
                None => mine.clone(),
            };
            out.put(element.clone(), left);
        }
        out
    }

    pub(crate) fn intersection(&self, other: &Self) -> Self {
        let mut out = Self { member: self.member && other.member, children: BTreeMap::new() };
        for (element, mine) in &self.children {
            if let Some(theirs) = other.child(element) {
                out.put(element.clone(), mine.intersection(theirs));
            }
        }
        out
    }

    /// The `fieldsV1` of a managed fields entry.
    pub(crate) fn to_fields(&self) -> Value {
        let mut map = Map::new();
        if self.member && !self.children.is_empty() {
            map.insert(".".into(), Value::Object(Map::new()));
        }
        for (element, child) in &self.children {
            map.insert(element.clone(), child.to_fields());
        }
        Value::Object(map)
    }

    /// Reads a `fieldsV1`; what has no known form is left out.
    pub(crate) fn from_fields(fields: &Value) -> Self {
        let mut set = Self::read(fields, 0);
        // The root is no path.
        set.member = false;
        set
    }

    fn read(fields: &Value, depth: usize) -> Self {
        let Some(map) = fields.as_object().filter(|_| depth < MAX_DEPTH) else {
            return Self::leaf();
        };
        let mut set = Self { member: map.is_empty() || map.contains_key("."), ..Self::default() };
        for (element, child) in map {
            if element.starts_with("k:") || element.starts_with("v:") {
                // Other writers may space their JSON differently.
                if let Ok(value) = serde_json::from_str::<Value>(&element[2..]) {
                    let element = format!("{}{value}", &element[..2]);
                    set.children.insert(element, Self::read(child, depth + 1));
                }
            } else if element.starts_with("f:") || element.starts_with("i:") {
                set.children.insert(element.clone(), Self::read(child, depth + 1));
            }
        }
        set
    }

    /// All members as paths that people read: `.spec.containers[name="a"].image`.
    pub(crate) fn paths(&self) -> Vec<String> {
        let mut out = Vec::new();
        self.collect_paths("", &mut out);
        out
    }

    fn collect_paths(&self, prefix: &str, out: &mut Vec<String>) {
        if self.member {
            out.push(prefix.to_owned());
        }
        for (element, child) in &self.children {
            child.collect_paths(&format!("{prefix}{}", readable(element)), out);
        }
    }
}

fn readable(element: &str) -> String {
    let (kind, rest) = element.split_at(element.len().min(2));
    match kind {
        "f:" => format!(".{rest}"),
        "v:" => format!("[={rest}]"),
        "k:" => {
            let keys: Map<String, Value> = serde_json::from_str(rest).unwrap_or_default();
            let keys: Vec<String> = keys.iter().map(|(k, v)| format!("{k}={v}")).collect();
            format!("[{}]", keys.join(","))
        }
        _ => format!("[{rest}]"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fields_read_back_as_the_same_set() {
        let fields = json!({"f:metadata": {"f:labels": {".": {}, "f:a": {}}},
            "f:spec": {"f:containers": {"k:{\"name\":\"x\"}": {".": {}, "f:image": {}}},
                "f:finalizers": {"v:\"a\"": {}}}});
        let set = Set::from_fields(&fields);
        assert_eq!(set.to_fields(), fields);
        assert_eq!(
            set.paths(),
            [
                ".metadata.labels",
                ".metadata.labels.a",
                ".spec.containers[name=\"x\"]",
                ".spec.containers[name=\"x\"].image",
                ".spec.finalizers[=\"a\"]"
            ]
        );
    }

    #[test]
    fn set_operations_are_by_member() {
        let a = Set::from_fields(&json!({"f:a": {".": {}, "f:x": {}}, "f:b": {}}));
        let b = Set::from_fields(&json!({"f:a": {"f:x": {}}, "f:c": {}}));
        assert_eq!(a.difference(&b).paths(), [".a", ".b"]);
        assert_eq!(a.intersection(&b).paths(), [".a.x"]);
        assert_eq!(a.clone().union(&b).paths(), [".a", ".a.x", ".b", ".c"]);
        assert!(a.difference(&a).is_empty());
    }
}
