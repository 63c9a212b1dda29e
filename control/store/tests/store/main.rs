//! The store from outside: its contract against a model, and what survives the death of its
//! process.

mod contract;
mod durability;
mod support;
