//! The pod's node selector, required and preferred node affinity.

use bowline_api::matching::{pod_allows_node, term_selects};

use super::{Judge, Rejection, Scale};
use crate::snapshot::{NodeInfo, PodInfo};

pub(crate) struct NodeAffinity<'a> {
    pod: &'a PodInfo,
}

impl<'a> NodeAffinity<'a> {
    pub(crate) fn new(pod: &'a PodInfo) -> Self {
        Self { pod }
    }
}

impl Judge for NodeAffinity<'_> {
    fn filter(&self, node: &NodeInfo) -> Result<(), Rejection> {
        if self.pod.spec().is_none_or(|spec| pod_allows_node(spec, &node.node)) {
            return Ok(());
        }
        Err(Rejection::final_("node(s) didn't match Pod's node affinity/selector"))
    }

    fn score(&self, node: &NodeInfo) -> i64 {
        let preferred = self.pod.node_affinity().and_then(|affinity| {
            affinity.preferred_during_scheduling_ignored_during_execution.as_deref()
        });
        let terms = preferred.unwrap_or_default().iter();
        terms
            .filter(|term| term_selects(&term.preference, &node.node))
            .map(|term| i64::from(term.weight))
            .sum()
    }

    fn scale(&self) -> Scale {
        Scale::HighIsGood
    }

    fn weight(&self) -> i64 {
        2
    }
}
