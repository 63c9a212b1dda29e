//! Taints that the pod does not tolerate.

use bowline_api::matching::{tolerates, untolerated};

use super::{Judge, Rejection, Scale};
use crate::snapshot::{NodeInfo, PodInfo};

pub(crate) struct Taints<'a> {
    pod: &'a PodInfo,
}

impl<'a> Taints<'a> {
    pub(crate) fn new(pod: &'a PodInfo) -> Self {
        Self { pod }
    }
}

impl Judge for Taints<'_> {
    fn filter(&self, node: &NodeInfo) -> Result<(), Rejection> {
        let effects = ["NoSchedule", "NoExecute"];
        match untolerated(node.taints(), self.pod.tolerations(), &effects) {
            None => Ok(()),
            Some(taint) => Err(Rejection::final_(format!(
                "node(s) had untolerated taint {{{}: {}}}",
                taint.key,
                taint.value.as_deref().unwrap_or_default()
            ))),
        }
    }

    /// Taints that would rather not have the pod.
    fn score(&self, node: &NodeInfo) -> i64 {
        let soft = node.taints().iter().filter(|taint| {
            taint.effect == "PreferNoSchedule"
                && !self.pod.tolerations().iter().any(|one| tolerates(one, taint))
        });
        i64::try_from(soft.count()).unwrap_or(i64::MAX)
    }

    fn scale(&self) -> Scale {
        Scale::LowIsGood
    }

    fn weight(&self) -> i64 {
        3
    }
}
