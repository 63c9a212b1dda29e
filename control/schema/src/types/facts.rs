//! Reads `facts.txt`.

use std::collections::HashMap;

#[cfg(test)]
use super::Definition;

const TEXT: &str = include_str!("facts.txt");

/// How server-side apply identifies a list's items.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum ListType {
    #[default]
    Atomic,
    Set,
    Map(Vec<&'static str>),
}

/// How a strategic merge patch treats a field.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Strategy {
    /// Lists are replaced, maps and structures merged.
    #[default]
    Default,
    Replace,
    Merge,
    /// As `Merge`; `$retainKeys` may clear the keys that the patch doesn't name.
    MergeRetainKeys,
    RetainKeys,
}

impl Strategy {
    /// The value of `x-kubernetes-patch-strategy`.
    pub(crate) fn name(self) -> Option<&'static str> {
        match self {
            Self::Default => None,
            Self::Replace => Some("replace"),
            Self::Merge => Some("merge"),
            Self::MergeRetainKeys => Some("merge,retainKeys"),
            Self::RetainKeys => Some("retainKeys"),
        }
    }

    /// Whether a list merges item by item.
    pub(crate) fn merges_list(self) -> bool {
        matches!(self, Self::Merge | Self::MergeRetainKeys)
    }
}

/// What `facts.txt` says about one field.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    pub list: ListType,
    pub strategy: Strategy,
    pub merge_key: Option<&'static str>,
    pub atomic_map: bool,
    /// The default that the published schema names.
    pub default: Option<&'static str>,
}

/// All facts, by definition name.
#[derive(Default)]
pub(crate) struct Table {
    types: HashMap<String, TypeFacts>,
}

#[derive(Default)]
pub(crate) struct TypeFacts {
    pub atomic: bool,
    pub fields: HashMap<&'static str, Facts>,
}

impl Table {
    pub(crate) fn of(&self, definition: &str) -> Option<&TypeFacts> {
        self.types.get(definition)
    }
}

pub(crate) fn read() -> Table {
    let mut table = Table::default();
    let mut current = String::new();
    for line in TEXT.lines().filter(|l| !l.starts_with('#') && !l.trim().is_empty()) {
        let mut words = line.split_whitespace();
        let Some(first) = words.next() else { continue };
        if line.starts_with(' ') {
            let facts = words.fold(Facts::default(), field_fact);
            table.types.entry(current.clone()).or_default().fields.insert(first, facts);
        } else {
            current = full_name(first);
            table.types.entry(current.clone()).or_default().atomic = words.any(|w| w == "atomic");
        }
    }
    table
}

fn field_fact(mut facts: Facts, word: &'static str) -> Facts {
    let (name, value) = word.split_once(':').unwrap_or((word, ""));
    match name {
        "set" => facts.list = ListType::Set,
        "map" => facts.list = ListType::Map(value.split(',').collect()),
        "atomic-map" => facts.atomic_map = true,
        "default" => facts.default = Some(value),
        "patch" => {
            let (strategy, key) = value.split_once(':').unwrap_or((value, ""));
            facts.merge_key = Some(key).filter(|k| !k.is_empty());
            facts.strategy = match strategy {
                "merge" => Strategy::Merge,
                "merge-retain" => Strategy::MergeRetainKeys,
                "retain" => Strategy::RetainKeys,
                "replace" => Strategy::Replace,
                other => unreachable!("facts.txt: unknown patch strategy {other}"),
            };
        }
        other => unreachable!("facts.txt: unknown word {other}"),
    }
    facts
}

fn full_name(short: &str) -> String {
    let prefix = match short.split('.').next() {
        Some("meta") => "io.k8s.apimachinery.pkg.apis.",
        Some("apiextensions") => "io.k8s.apiextensions-apiserver.pkg.apis.",
        Some("apiregistration") => "io.k8s.kube-aggregator.pkg.apis.",
        _ => "io.k8s.api.",
    };
    format!("{prefix}{short}")
}

/// Facts about types or fields that no definition has: each is a typing error.
#[cfg(test)]
pub(crate) fn unused(definitions: &[Definition]) -> Vec<String> {
    let mut unused = Vec::new();
    for (name, facts) in &read().types {
        let definition = definitions.iter().find(|d| *d.name == **name);
        for field in facts.fields.keys() {
            if definition.is_none_or(|d| d.field(field).is_none()) {
                unused.push(format!("{name} {field}"));
            }
        }
        if definition.is_none() && facts.atomic {
            unused.push(name.clone());
        }
    }
    unused.sort();
    unused
}
