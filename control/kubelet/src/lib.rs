//! The kubelet: runs the pods that the API server binds to this node, through a CRI runtime.
//!
//! ```text
//!  API server --pods--> source::api --+                     +--> pod::worker (one for each pod)
//!  manifests ---------> source::files +--> pod::manager ----+      |  actions::compute (pure)
//!  containerd --exits-> cri::events --+                            |  jobs: setup, sandbox, start, kill
//!                                                                  +--> pod::writer --> API server
//! ```
//!
//! The API server and the runtime may both go away and come back at any time; so may this process.

pub mod cgroup;
pub mod config;
pub mod context;
pub mod cri;
pub mod evict;
pub mod image;
pub mod image_gc;
pub mod logs;
pub mod make;
pub mod node;
pub mod pod;
pub mod probe;
pub mod runtime;
pub mod server;
pub mod source;
pub mod start;
pub mod volume;

pub use config::{Auth, Config, Serving};
pub use start::{Error, run};
