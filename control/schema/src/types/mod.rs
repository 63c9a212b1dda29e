//! The schemas of the built-in kinds in a compact form, built once from k8s-openapi's.
//!
//! k8s-openapi carries names, types and descriptions, but not how lists and maps merge: that comes from
//! `facts.txt`. About 900 definitions take under a megabyte.

mod compile;
pub(crate) mod facts;
pub(crate) mod kinds;

use std::collections::HashMap;
use std::sync::OnceLock;

use crate::Gvk;

pub(crate) use facts::{Facts, ListType, Strategy};

/// What a field, list item or map value holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// Any JSON value, kept as it is (`RawExtension`, `FieldsV1`, `JSON`).
    Any,
    Bool,
    Int32,
    Int64,
    Float,
    String,
    /// Base64.
    Bytes,
    /// RFC 3339, seconds.
    Time,
    /// RFC 3339, microseconds.
    MicroTime,
    Quantity,
    IntOrString,
    List(Box<Shape>),
    Map(Box<Shape>),
    Struct(DefinitionId),
}

/// Index into [`Types::definitions`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DefinitionId(u16);

#[derive(Debug)]
pub(crate) struct Field {
    pub name: Box<str>,
    pub shape: Shape,
    pub required: bool,
    pub facts: Facts,
}

#[derive(Debug)]
pub(crate) struct Definition {
    /// `io.k8s.api.core.v1.Pod`
    pub name: Box<str>,
    /// Sorted by name.
    fields: Box<[Field]>,
    /// Server-side apply treats the whole structure as one value.
    pub atomic: bool,
}

impl Definition {
    pub(crate) fn field(&self, name: &str) -> Option<&Field> {
        let found = self.fields.binary_search_by(|f| (*f.name).cmp(name)).ok()?;
        Some(&self.fields[found])
    }

    /// `Pod`
    pub(crate) fn short_name(&self) -> &str {
        self.name.rsplit('.').next().unwrap_or(&self.name)
    }

    /// `v1.Pod`, as Go prints the type.
    pub(crate) fn go_name(&self) -> &str {
        let mut dots = self.name.rmatch_indices('.').skip(1);
        dots.next().map_or(&*self.name, |(at, _)| &self.name[at + 1..])
    }
}

/// All definitions, and the kinds among them.
pub(crate) struct Types {
    definitions: Vec<Definition>,
    kinds: HashMap<Gvk, DefinitionId>,
}

impl Types {
    pub(crate) fn get(&self, id: DefinitionId) -> &Definition {
        &self.definitions[usize::from(id.0)]
    }

    pub(crate) fn kind(&self, gvk: &Gvk) -> Option<DefinitionId> {
        self.kinds.get(gvk).copied()
    }
}

/// The one instance; the first call takes some tens of milliseconds.
pub(crate) fn types() -> &'static Types {
    static TYPES: OnceLock<Types> = OnceLock::new();
    TYPES.get_or_init(compile::compile)
}

/// Whether this crate has a schema for the kind.
pub fn known(gvk: &Gvk) -> bool {
    types().kind(gvk).is_some()
}

/// Whether objects of the kind have both a desired and an observed state; `false` for unknown kinds.
pub(crate) fn has_spec_and_status(gvk: &Gvk) -> bool {
    let Some(id) = types().kind(gvk) else { return false };
    let definition = types().get(id);
    definition.field("spec").is_some() && definition.field("status").is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition(kind: &Gvk) -> &'static Definition {
        types().get(types().kind(kind).expect("a known kind"))
    }

    #[test]
    fn a_pods_fields_have_their_shapes_and_facts() {
        let pod = definition(&Gvk::new("", "v1", "Pod"));
        assert_eq!(pod.go_name(), "v1.Pod");
        let Shape::Struct(spec) = pod.field("spec").unwrap().shape else {
            panic!("spec is a struct")
        };
        let spec = types().get(spec);
        let containers = spec.field("containers").unwrap();
        assert!(containers.required);
        assert_eq!(containers.facts.list, ListType::Map(vec!["name"]));
        let Shape::List(item) = &containers.shape else { panic!("containers is a list") };
        let Shape::Struct(container) = **item else { panic!("a container is a struct") };
        let container = types().get(container);
        assert_eq!(
            container.field("ports").unwrap().facts.list,
            ListType::Map(vec!["containerPort", "protocol"])
        );
        assert_eq!(container.field("ports").unwrap().facts.merge_key, Some("containerPort"));
        assert_eq!(spec.field("nodeSelector").unwrap().shape, Shape::Map(Box::new(Shape::String)));
        assert!(spec.field("nodeSelector").unwrap().facts.atomic_map);
        assert!(spec.field("nosuch").is_none());
    }

    #[test]
    fn every_fact_is_about_a_field_that_exists() {
        assert_eq!(facts::unused(&types().definitions), Vec::<String>::new());
    }
}
