//! Who owns a frontend that several Services ask for (the same external IP and port, say): the
//! oldest, by creation time and then by name, so that every node decides alike.

use std::collections::{HashMap, HashSet};

use super::FrontendAddress;
use crate::model::ObjectName;

/// The claims of all services.
#[derive(Debug, Default)]
pub(super) struct Claims {
    /// Sorted; the first owns the frontend. Never empty.
    claimants: HashMap<FrontendAddress, Vec<(i64, ObjectName)>>,
    of_service: HashMap<ObjectName, (i64, Box<[FrontendAddress]>)>,
}

impl Claims {
    /// Sets what `service` claims; `moved` gains the other services that won or lost a frontend.
    pub(super) fn set(
        &mut self,
        service: &ObjectName,
        created: i64,
        wanted: Vec<FrontendAddress>,
        moved: &mut HashSet<ObjectName>,
    ) {
        let old = self.of_service.remove(service);
        if let Some((old_created, old_claims)) = &old {
            let kept = |claim: &FrontendAddress| *old_created == created && wanted.contains(claim);
            for claim in old_claims.iter().filter(|claim| !kept(claim)) {
                self.release(claim, service, moved);
            }
        }
        for claim in &wanted {
            self.ask(*claim, created, service, moved);
        }
        if !wanted.is_empty() {
            self.of_service.insert(service.clone(), (created, wanted.into()));
        }
    }

    pub(super) fn owns(&self, service: &ObjectName, frontend: &FrontendAddress) -> bool {
        self.owner(frontend) == Some(service)
    }

    /// How many claims wait for an owner to go.
    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        self.claimants.values().map(|all| all.len() - 1).sum()
    }

    fn owner(&self, frontend: &FrontendAddress) -> Option<&ObjectName> {
        self.claimants.get(frontend)?.first().map(|(_, service)| service)
    }

    fn ask(
        &mut self,
        frontend: FrontendAddress,
        created: i64,
        service: &ObjectName,
        moved: &mut HashSet<ObjectName>,
    ) {
        let all = self.claimants.entry(frontend).or_default();
        let claim = (created, service.clone());
        let Err(place) = all.binary_search(&claim) else { return };
        all.insert(place, claim);
        if let Some((_, other)) = all.get(1) {
            let owner = &all[0].1;
            tracing::warn!(
                %owner, other = %all[if place == 0 { 1 } else { place }].1,
                address = ?frontend.address, port = frontend.port, protocol = %frontend.protocol,
                "two Services want the same address; the older has it"
            );
            if place == 0 {
                moved.insert(other.clone());
            }
        }
    }

    fn release(
        &mut self,
        frontend: &FrontendAddress,
        service: &ObjectName,
        moved: &mut HashSet<ObjectName>,
    ) {
        let Some(all) = self.claimants.get_mut(frontend) else { return };
        let owned = all.first().is_some_and(|(_, owner)| owner == service);
        all.retain(|(_, claimant)| claimant != service);
        match all.first() {
            Some((_, next)) if owned => {
                moved.insert(next.clone());
            }
            Some(_) => {}
            None => {
                self.claimants.remove(frontend);
            }
        }
    }
}
