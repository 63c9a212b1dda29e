//! From a pod's specification to what the runtime is asked to make. Pure, but for the node's facts
//! that are passed in.

pub mod container;
pub mod dns;
pub mod env;
pub mod expand;
pub mod field;
pub mod hosts;
pub mod resources;
pub mod sandbox;
pub mod security;
pub mod services;
