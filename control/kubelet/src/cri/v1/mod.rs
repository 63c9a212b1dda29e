//! The Container Runtime Interface, version 1, as plain messages.
//!
//! Written out instead of generated: a build needs no `protoc`, and only what this kubelet uses is
//! compiled. Unknown fields are skipped on decoding, as protobuf promises. Source: the CRI API,
//! `runtime/v1/api.proto` of Kubernetes 1.35.

mod config;
mod image;
mod request;
mod status;

pub use config::*;
pub use image::*;
pub use request::*;
pub use status::*;

/// The request or answer of a call that carries nothing.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Empty {}
