//! Where a kubelet learns what it needs: the API server's objects and files on the node.

pub mod api;
pub mod files;
pub mod kept;
pub mod objects;
