//! Histories of objects, and the views that follow from them.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn service(name: &str, cluster_ip: &str) -> objects::Service {
    let mut service = objects::Service::default();
    service.metadata.namespace = Some("ns".into());
    service.metadata.name = Some(name.into());
    service.spec.cluster_ip = cluster_ip.into();
    service
}

fn slice(name: &str, owner: &str, addresses: &[u8]) -> EndpointSlice {
    let mut slice = EndpointSlice::default();
    slice.metadata.namespace = Some("ns".into());
    slice.metadata.name = Some(name.into());
    slice.metadata.labels = Some(BTreeMap::from([(SERVICE_NAME.to_owned(), owner.to_owned())]));
    slice.endpoints = addresses
        .iter()
        .map(|last| objects::Endpoint {
            addresses: vec![IpAddr::from([10, 0, 0, *last])],
            ..objects::Endpoint::default()
        })
        .collect();
    slice
}

fn addresses(model: &Model, name: &str) -> Vec<String> {
    match model.view().service("ns", name) {
        None => vec!["gone".into()],
        Some(Service::Headless { endpoints }) => {
            endpoints.iter().map(|endpoint| endpoint.address.to_string()).collect()
        }
        Some(Service::ClusterIp { addresses, .. }) => {
            addresses.iter().map(ToString::to_string).collect()
        }
        Some(Service::External { target }) => vec![target.to_ascii()],
    }
}

#[test]
fn slices_may_come_before_their_service_and_outlive_it() {
    let mut model = Model::default();
    model.apply(Change::Slices(Event::Apply(slice("s1", "db", &[1, 2]))));
    assert_eq!(addresses(&model, "db"), ["gone"]);
    model.apply(Change::Services(Event::Apply(service("db", "None"))));
    assert_eq!(addresses(&model, "db"), ["10.0.0.1", "10.0.0.2"]);
    assert_eq!(model.view().owners(IpAddr::from([10, 0, 0, 1])).len(), 1);
    model.apply(Change::Services(Event::Delete(service("db", "None"))));
    assert_eq!(addresses(&model, "db"), ["gone"]);
    assert!(model.view().owners(IpAddr::from([10, 0, 0, 1])).is_empty());
    model.apply(Change::Slices(Event::Delete(slice("s1", "db", &[]))));
    assert!(model.entries.is_empty() && model.slice_owners.is_empty(), "nothing is kept");
}

#[test]
fn a_slice_may_change_its_service() {
    let mut model = Model::default();
    for name in ["a", "b"] {
        model.apply(Change::Services(Event::Apply(service(name, "None"))));
    }
    model.apply(Change::Slices(Event::Apply(slice("s", "a", &[1]))));
    model.apply(Change::Slices(Event::Apply(slice("s", "b", &[1]))));
    assert_eq!(addresses(&model, "a"), [] as [&str; 0]);
    assert_eq!(addresses(&model, "b"), ["10.0.0.1"]);
}

#[test]
fn an_endpoint_in_two_slices_is_told_once() {
    let mut model = Model::default();
    model.apply(Change::Services(Event::Apply(service("db", "None"))));
    model.apply(Change::Slices(Event::Apply(slice("s1", "db", &[1, 2]))));
    model.apply(Change::Slices(Event::Apply(slice("s2", "db", &[2, 3]))));
    assert_eq!(addresses(&model, "db"), ["10.0.0.1", "10.0.0.2", "10.0.0.3"]);
    model.apply(Change::Slices(Event::Delete(slice("s1", "db", &[]))));
    assert_eq!(addresses(&model, "db"), ["10.0.0.2", "10.0.0.3"]);
}

#[test]
fn it_is_synced_when_each_kind_was_told_whole() {
    let mut model = Model::default();
    model.apply(Change::Services(Event::Apply(service("a", "10.96.0.1"))));
    assert!(!model.is_synced());
    model.apply(Change::Services(Event::Replace(vec![])));
    assert!(!model.is_synced());
    assert_eq!(addresses(&model, "a"), ["gone"], "what a whole list lacks is gone");
    model.apply(Change::Slices(Event::Replace(vec![])));
    assert!(model.is_synced());
}

#[test]
fn a_service_keeps_its_slices_when_it_changes_its_kind() {
    let mut model = Model::default();
    model.apply(Change::Slices(Event::Apply(slice("s", "a", &[1]))));
    model.apply(Change::Services(Event::Apply(service("a", "10.96.0.1"))));
    assert_eq!(addresses(&model, "a"), ["10.96.0.1"]);
    let mut external = service("a", "");
    external.spec.kind = "ExternalName".into();
    external.spec.external_name = "example.com".into();
    model.apply(Change::Services(Event::Apply(external)));
    assert_eq!(addresses(&model, "a"), ["example.com."]);
    model.apply(Change::Services(Event::Apply(service("a", "None"))));
    assert_eq!(addresses(&model, "a"), ["10.0.0.1"]);
}

/// One step of a random history.
#[derive(Debug, Clone)]
enum Step {
    SetService(u8, u8),
    DropService(u8),
    SetSlice(u8, u8, Vec<u8>),
    DropSlice(u8),
    Relist,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..4_u8, 0..3_u8).prop_map(|(name, kind)| Step::SetService(name, kind)),
        (0..4_u8).prop_map(Step::DropService),
        (0..4_u8, 0..4_u8, prop::collection::vec(0..6_u8, 0..4))
            .prop_map(|(name, owner, hosts)| Step::SetSlice(name, owner, hosts)),
        (0..4_u8).prop_map(Step::DropSlice),
        Just(Step::Relist),
    ]
}

fn new_service(name: u8, kind: u8) -> objects::Service {
    let address = match kind {
        0 => "None".into(),
        _ => format!("10.96.{kind}.{name}"),
    };
    service(&name.to_string(), &address)
}

proptest! {
    /// Whatever the history, the view is the one that its outcome alone would give.
    #[test]
    fn a_view_depends_on_the_objects_not_on_their_history(
        steps in prop::collection::vec(step(), 0..40)
    ) {
        let mut model = Model::default();
        let mut services: BTreeMap<u8, objects::Service> = BTreeMap::new();
        let mut slices: BTreeMap<u8, EndpointSlice> = BTreeMap::new();
        for step in steps {
            match step {
                Step::SetService(name, kind) => {
                    services.insert(name, new_service(name, kind));
                    model.apply(Change::Services(Event::Apply(new_service(name, kind))));
                }
                Step::DropService(name) => {
                    services.remove(&name);
                    model.apply(Change::Services(Event::Delete(new_service(name, 0))));
                }
                Step::SetSlice(name, owner, hosts) => {
                    let slice = slice(&name.to_string(), &owner.to_string(), &hosts);
                    slices.insert(name, slice.clone());
                    model.apply(Change::Slices(Event::Apply(slice)));
                }
                Step::DropSlice(name) => {
                    slices.remove(&name);
                    let slice = slice(&name.to_string(), "any", &[]);
                    model.apply(Change::Slices(Event::Delete(slice)));
                }
                Step::Relist => {
                    let all = services.values().cloned().collect();
                    model.apply(Change::Services(Event::Replace(all)));
                    model.apply(Change::Slices(Event::Replace(slices.values().cloned().collect())));
                }
            }
        }
        let mut fresh = Model::default();
        fresh.apply(Change::Services(Event::Replace(services.into_values().collect())));
        fresh.apply(Change::Slices(Event::Replace(slices.into_values().collect())));
        prop_assert_eq!(model.view().len(), fresh.view().len());
        for name in 0..4_u8 {
            let name = name.to_string();
            prop_assert_eq!(
                model.view().service("ns", &name), fresh.view().service("ns", &name)
            );
        }
        for net in [0, 96] {
            for third in 0..3 {
                for last in 0..6 {
                    let address = IpAddr::from([10, net, third, last]);
                    prop_assert_eq!(model.view().owners(address), fresh.view().owners(address));
                }
            }
        }
    }
}
