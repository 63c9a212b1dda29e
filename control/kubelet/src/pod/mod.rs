//! Pods.

pub mod actions;
pub mod backoff;
pub mod hook;
pub mod jobs;
pub mod manager;
pub mod memory;
pub mod mirror;
pub mod news;
pub mod qos;
pub mod status;
pub mod view;
pub mod worker;
pub mod writer;
