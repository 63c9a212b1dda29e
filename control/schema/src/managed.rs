//! `metadata.managedFields`: who owns which field.

use serde_json::Value;

use crate::Gvk;

/// Who writes, and how.
#[derive(Clone, Debug)]
pub struct Writer<'a> {
    /// The `fieldManager` parameter, or the start of the user agent.
    pub manager: &'a str,
    /// `status`, `scale`, ... or empty.
    pub subresource: &'a str,
    /// RFC 3339, seconds.
    pub now: &'a str,
}

/// Updates `new.metadata.managedFields` for a create (`old` is `None`), an update or a patch other than
/// apply: what changed from `old` to `new` becomes the writer's, and is taken from all others. A client
/// that sets `managedFields: []` or `[{}]` clears them. Idempotent: no change, no new time.
pub fn track(gvk: &Gvk, old: Option<&Value>, new: &mut Value, writer: &Writer<'_>) {
    let _ = (gvk, old, new, writer);
}
