//! The controllers and the scheduler against a real apiserver, with kubelets that only pretend.

mod batch;
mod certificates;
mod kit;
mod nodes;
mod scheduling;
mod workloads;
