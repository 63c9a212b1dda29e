//! Where Services and EndpointSlices come from.

use futures::stream::BoxStream;

use crate::model::Change;

mod cluster;
mod directory;

pub use cluster::Cluster;
pub use directory::{Directory, parse};

/// Tells all objects once (each kind as a `Replace`), and then every change, for ever. A source
/// retries by itself whatever fails.
pub trait Source: Send {
    fn changes(self: Box<Self>) -> BoxStream<'static, Change>;
}
