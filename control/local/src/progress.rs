//! How `up`, `down` and `load` tell what they do.

/// Hears of each step of a long act. Steps of different nodes may interleave.
pub trait Progress: Sync {
    /// A step begins: a few words in the present, such as `node n1: namespaces`.
    fn step(&self, step: &str);
    /// Something that the user should know and that stops nothing.
    fn note(&self, note: &str);
}

/// Tells nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn step(&self, _: &str) {}
    fn note(&self, _: &str) {}
}
