//! Stub to seed the build.
#![no_std]
