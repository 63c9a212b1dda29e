//! Stub to seed the build.
