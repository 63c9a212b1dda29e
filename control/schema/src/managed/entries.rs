//! The entries of `metadata.managedFields`.

use serde_json::{Value, json};

use super::Writer;
use super::set::Set;
use crate::Gvk;

/// More updaters than this: the oldest are merged into one, so that objects don't grow for ever.
pub(super) const MAX_UPDATERS: usize = 10;
const ANCIENT: &str = "ancient-changes";

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry {
    pub manager: String,
    /// `Apply`; else `Update`.
    pub applied: bool,
    pub api_version: String,
    pub subresource: String,
    pub time: Option<String>,
    pub set: Set,
}

impl Entry {
    pub(crate) fn new(gvk: &Gvk, writer: &Writer<'_>, applied: bool, set: Set) -> Self {
        Self {
            manager: writer.manager.to_owned(),
            applied,
            api_version: gvk.api_version(),
            subresource: writer.subresource.to_owned(),
            time: Some(writer.now.to_owned()),
            set,
        }
    }

    /// Whether this is the entry that such a write belongs to.
    pub(crate) fn is_of(&self, gvk: &Gvk, writer: &Writer<'_>, applied: bool) -> bool {
        self.manager == writer.manager
            && self.applied == applied
            && self.subresource == writer.subresource
            && (applied || self.api_version == gvk.api_version())
    }
}

/// The entries of an object, malformed ones left out.
pub(crate) fn read(object: &Value) -> Vec<Entry> {
    let list = object.pointer("/metadata/managedFields").and_then(Value::as_array);
    list.into_iter().flatten().filter_map(read_one).collect()
}

fn read_one(entry: &Value) -> Option<Entry> {
    let text = |key: &str| entry.get(key).and_then(Value::as_str);
    let applied = match text("operation")? {
        "Apply" => true,
        "Update" => false,
        _ => return None,
    };
    Some(Entry {
        manager: text("manager").unwrap_or_default().to_owned(),
        applied,
        api_version: text("apiVersion")?.to_owned(),
        subresource: text("subresource").unwrap_or_default().to_owned(),
        time: text("time").map(str::to_owned),
        set: Set::from_fields(entry.get("fieldsV1")?),
    })
}

/// Writes entries into an object: empty ones are left out, appliers first, then by time.
pub(crate) fn write(object: &mut Value, mut entries: Vec<Entry>) {
    entries.retain(|e| !e.set.is_empty());
    merge_oldest(&mut entries);
    entries.sort_by(|a, b| {
        let key =
            |e: &Entry| (!e.applied, e.time.clone(), e.manager.clone(), e.subresource.clone());
        key(a).cmp(&key(b))
    });
    let list: Vec<Value> = entries.iter().map(write_one).collect();
    let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) else { return };
    if list.is_empty() {
        metadata.remove("managedFields");
    } else {
        metadata.insert("managedFields".into(), list.into());
    }
}

fn write_one(entry: &Entry) -> Value {
    let mut out = json!({
        "manager": entry.manager,
        "operation": if entry.applied { "Apply" } else { "Update" },
        "apiVersion": entry.api_version,
        "fieldsType": "FieldsV1",
        "fieldsV1": entry.set.to_fields(),
    });
    if let Some(time) = &entry.time {
        out["time"] = time.as_str().into();
    }
    if !entry.subresource.is_empty() {
        out["subresource"] = entry.subresource.as_str().into();
    }
    out
}

/// Keeps at most [`MAX_UPDATERS`] updaters: the oldest of one version become `ancient-changes`.
fn merge_oldest(entries: &mut Vec<Entry>) {
    entries.sort_by(|a, b| (a.applied, &a.time).cmp(&(b.applied, &b.time)));
    let updaters = entries.iter().filter(|e| !e.applied).count();
    if updaters <= MAX_UPDATERS {
        return;
    }
    let count = updaters - MAX_UPDATERS + 1;
    let old: Vec<Entry> = entries.drain(..count).collect();
    for entry in old {
        let ancient = |e: &&mut Entry| {
            !e.applied && e.manager == ANCIENT && e.api_version == entry.api_version
        };
        match entries.iter_mut().find(ancient) {
            Some(ancient) => ancient.set = std::mem::take(&mut ancient.set).union(&entry.set),
            None => entries.insert(
                0,
                Entry { manager: ANCIENT.to_owned(), subresource: String::new(), ..entry },
            ),
        }
    }
}
