//! What makes a node possible for a pod, and what makes it good: one file each.

mod fit;
mod node_affinity;
mod node_name;
mod pod_affinity;
mod ports;
mod spread;
mod taints;

use crate::snapshot::{Cluster, NodeInfo, PodInfo};

/// Why a node can't take the pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rejection {
    /// In the words that users know from other clusters.
    pub(crate) reasons: Vec<String>,
    /// Whether the node could take it if some of its pods left.
    pub(crate) resolvable: bool,
    /// Whether a pod placed somewhere could make the node fit.
    pub(crate) wants_company: bool,
}

impl Rejection {
    fn final_(reason: impl Into<String>) -> Self {
        Self { reasons: vec![reason.into()], resolvable: false, wants_company: false }
    }

    fn resolvable(reasons: Vec<String>) -> Self {
        Self { reasons, resolvable: true, wants_company: false }
    }

    fn company(reason: impl Into<String>, resolvable: bool) -> Self {
        Self { reasons: vec![reason.into()], resolvable, wants_company: true }
    }
}

/// How raw scores become 0 to 100.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scale {
    /// They are.
    Percent,
    /// The highest becomes 100.
    HighIsGood,
    /// The lowest becomes 100.
    LowIsGood,
}

/// One plugin, ready to judge the nodes for one pod.
pub(crate) trait Judge {
    fn filter(&self, _node: &NodeInfo) -> Result<(), Rejection> {
        Ok(())
    }

    fn score(&self, _node: &NodeInfo) -> i64 {
        0
    }

    fn scale(&self) -> Scale {
        Scale::Percent
    }

    fn weight(&self) -> i64 {
        0
    }
}

/// Every plugin, cheap and final ones first: a node's first rejection is the one that is told.
pub(crate) fn judges<'a>(pod: &'a PodInfo, cluster: &'a Cluster) -> Vec<Box<dyn Judge + 'a>> {
    let mut judges: Vec<Box<dyn Judge + 'a>> = vec![
        Box::new(node_name::NodeName::new(pod)),
        Box::new(taints::Taints::new(pod)),
        Box::new(node_affinity::NodeAffinity::new(pod)),
    ];
    if !pod.ports.is_empty() {
        judges.push(Box::new(ports::Ports::new(pod)));
    }
    judges.push(Box::new(fit::Fit::new(pod)));
    judges.extend(spread::Spread::new(pod, cluster).map(|judge| Box::new(judge) as Box<dyn Judge>));
    if let Some(judge) = pod_affinity::PodAffinity::new(pod, cluster) {
        judges.push(Box::new(judge));
    }
    judges
}

#[cfg(test)]
pub(crate) mod testing;
