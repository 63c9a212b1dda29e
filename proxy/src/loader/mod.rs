//! Loads the kernel programs, pins their maps and links, and takes over what an earlier run left.

pub mod layout;
pub mod sys;
