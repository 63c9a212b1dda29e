//! Nodes that are closed for new pods, and pods that ask for one node by name.

use bowline_api::matching::tolerates;
use bowline_api::names::TAINT_UNSCHEDULABLE;
use k8s_openapi::api::core::v1::Taint;

use super::{Judge, Rejection};
use crate::snapshot::{NodeInfo, PodInfo};

pub(crate) struct NodeName<'a> {
    wanted: Option<&'a str>,
    tolerates_closed: bool,
}

impl<'a> NodeName<'a> {
    pub(crate) fn new(pod: &'a PodInfo) -> Self {
        let taint = Taint {
            key: TAINT_UNSCHEDULABLE.to_owned(),
            effect: "NoSchedule".to_owned(),
            ..Default::default()
        };
        Self {
            wanted: pod.spec().and_then(|spec| spec.node_name.as_deref()),
            tolerates_closed: pod.tolerations().iter().any(|one| tolerates(one, &taint)),
        }
    }
}

impl Judge for NodeName<'_> {
    fn filter(&self, node: &NodeInfo) -> Result<(), Rejection> {
        let closed = node.node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or(false);
        if closed && !self.tolerates_closed {
            return Err(Rejection::final_("node(s) were unschedulable"));
        }
        match self.wanted {
            Some(wanted) if wanted != node.name => {
                Err(Rejection::final_("node(s) didn't match the requested node name"))
            }
            _ => Ok(()),
        }
    }
}
