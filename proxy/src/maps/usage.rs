//! How full each map is.

use serde::Serialize;

/// One map's use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// The map's name, as the programs know it.
    pub name: &'static str,
    /// The kernel's name for its type.
    pub kind: &'static str,
    /// Entries in use. For arrays, what user space has written to; `None` for what only the kernel
    /// counts (socket storage, ring buffer).
    pub entries: Option<u64>,
    /// Entries that fit.
    pub capacity: u32,
    /// Bytes that the kernel has set aside for it now.
    pub bytes: u64,
}
