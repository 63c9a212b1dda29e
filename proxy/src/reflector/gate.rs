//! Whether to believe a list: pure. An apiserver whose cache is behind, or whose store was lost, can
//! say that everything is gone; the agent must not tear down a cluster on one such word.

use std::collections::HashMap;

use crate::model::ObjectName;

/// Losing more than this share (one in this many) of the objects at once is suspicious.
const SUSPICIOUS_SHARE: usize = 2;
/// Below this many known objects, losing all of them is a normal day.
const FEW: usize = 4;

/// What is known of one object: its revision, and its weight (endpoints of a slice).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Known {
    pub revision: u64,
    pub weight: usize,
}

/// Why a list asks for a second one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Suspicion {
    #[error("the list is of revision {list}, older than {seen}, which was seen before")]
    Older { list: u64, seen: u64 },
    #[error("{gone} of {known} objects are gone at once")]
    MostGone { gone: usize, known: usize },
    #[error("all {known} endpoints are gone at once")]
    AllEndpointsGone { known: usize },
}

/// What a list says.
#[derive(Debug)]
pub(super) struct Listed<'a> {
    pub revision: u64,
    pub objects: &'a HashMap<ObjectName, Known>,
}

/// Remembers a suspicion until a second list confirms it.
#[derive(Debug, Default)]
pub(super) struct Gate {
    /// Objects that an earlier agent had, before this one knows any.
    inherited: usize,
    doubted: bool,
}

impl Gate {
    /// `inherited`: about how many objects an earlier agent had served.
    pub(super) fn new(inherited: usize) -> Self {
        Self { inherited, doubted: false }
    }

    /// Judges a list against what is known. The second suspicious list in a row is believed: it was
    /// read on its own, and two alike are how the cluster now is.
    pub(super) fn admit(
        &mut self,
        known: &HashMap<ObjectName, Known>,
        seen: u64,
        list: &Listed<'_>,
    ) -> Result<(), Suspicion> {
        match self.suspicion(known, seen, list) {
            Some(suspicion) if !self.doubted => {
                self.doubted = true;
                Err(suspicion)
            }
            _ => {
                self.doubted = false;
                self.inherited = 0;
                Ok(())
            }
        }
    }

    fn suspicion(
        &self,
        known: &HashMap<ObjectName, Known>,
        seen: u64,
        list: &Listed<'_>,
    ) -> Option<Suspicion> {
        if list.revision < seen {
            return Some(Suspicion::Older { list: list.revision, seen });
        }
        if known.is_empty() {
            let (known, listed) = (self.inherited, list.objects.len());
            let gone = known.saturating_sub(listed);
            let most = known > FEW && gone * SUSPICIOUS_SHARE > known;
            return most.then_some(Suspicion::MostGone { gone, known });
        }
        let gone = known.keys().filter(|name| !list.objects.contains_key(*name)).count();
        if known.len() > FEW && gone * SUSPICIOUS_SHARE > known.len() {
            return Some(Suspicion::MostGone { gone, known: known.len() });
        }
        let weight = |all: &HashMap<ObjectName, Known>| all.values().map(|k| k.weight).sum();
        let (before, after): (usize, usize) = (weight(known), weight(list.objects));
        (before > FEW && after == 0).then_some(Suspicion::AllEndpointsGone { known: before })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn objects(range: std::ops::Range<usize>, weight: usize) -> HashMap<ObjectName, Known> {
        let name = |i| ObjectName::new("default", &format!("o{i}"));
        range.map(|i| (name(i), Known { revision: 1, weight })).collect()
    }

    fn admit(gate: &mut Gate, known: usize, seen: u64, list: usize, at: u64) -> bool {
        let (known, list) = (objects(0..known, 0), objects(0..list, 0));
        gate.admit(&known, seen, &Listed { revision: at, objects: &list }).is_ok()
    }

    #[test]
    fn an_ordinary_list_is_believed_at_once() {
        let mut gate = Gate::default();
        assert!(admit(&mut gate, 10, 5, 5, 6));
        assert!(admit(&mut gate, 0, 0, 0, 1), "an empty cluster is no news at start");
        assert!(admit(&mut gate, 3, 1, 0, 2), "three services may go at once");
    }

    #[test]
    fn a_loss_of_most_services_needs_a_second_list() {
        let mut gate = Gate::default();
        assert!(!admit(&mut gate, 10, 5, 4, 6));
        assert!(admit(&mut gate, 10, 5, 4, 6));
        assert!(!admit(&mut gate, 10, 5, 4, 6), "the next loss is doubted anew");
    }

    #[test]
    fn an_older_list_needs_a_second_one() {
        let mut gate = Gate::default();
        assert!(!admit(&mut gate, 10, 5, 10, 4));
        assert!(admit(&mut gate, 10, 5, 10, 5));
    }

    #[test]
    fn a_loss_of_all_endpoints_needs_a_second_list() {
        let (known, list) = (objects(0..10, 2), objects(0..10, 0));
        let mut gate = Gate::default();
        let list = Listed { revision: 9, objects: &list };
        let first = gate.admit(&known, 1, &list);
        assert_eq!(first, Err(Suspicion::AllEndpointsGone { known: 20 }));
        assert!(gate.admit(&known, 1, &list).is_ok());
    }

    #[test]
    fn an_empty_first_list_is_doubted_when_an_earlier_agent_had_services() {
        let mut gate = Gate::new(100);
        assert!(!admit(&mut gate, 0, 0, 1, 1));
        assert!(admit(&mut gate, 0, 0, 1, 1));
    }
}
