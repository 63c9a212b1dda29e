//! Names, object helpers and client set-up that every part of Bowline shares.
//!
//! Nothing here does more than one small job; nothing here knows a kernel, a store or a server.
//! Parts meet through the Kubernetes API, and this crate holds the words they meet with.

pub mod chain;
pub mod client;
pub mod events;
pub mod informer;
pub mod matching;
pub mod names;
pub mod quantity;
pub mod ready;
pub mod retry;
pub mod selector;
pub mod trim;
pub mod words;
