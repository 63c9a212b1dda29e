//! Knowledge of the built-in kinds, as pure functions on [`serde_json::Value`]: no I/O, no clock.
//!
//! The order in which the apiserver calls them for a write:
//! [`decode::parse`] (bytes to a value, duplicate fields) -> [`decode::normalize`] (types, unknown fields,
//! canonical quantities) -> [`default::apply`] -> admission -> [`validate::create`] or
//! [`validate::update`] -> [`managed::track`]. A patch runs [`patch`] or [`apply`] on the stored object
//! first and then takes the same path.
//!
//! Everything is keyed by [`Gvk`]. A kind that this crate doesn't know (a custom resource) has no schema:
//! it is not pruned, not defaulted, and only its metadata is validated.

pub mod apply;
pub mod decode;
pub mod default;
pub mod fields;
mod gvk;
pub mod managed;
pub mod openapi;
pub mod patch;
pub mod table;
pub mod types;
pub mod validate;

pub use gvk::Gvk;
