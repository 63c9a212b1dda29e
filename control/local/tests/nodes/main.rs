//! Nodes, containers and images on this machine, as root, with the real containerd.

mod cluster;
mod containerd;
mod containers;
mod machine;
mod trial;
