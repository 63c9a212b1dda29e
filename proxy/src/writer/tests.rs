use super::*;
use crate::model::{Condition, PortConfig, SliceEndpoint, SlicePort, TrafficPolicy};

fn web() -> ObjectName {
    ObjectName::new("default", "web")
}

fn node() -> NodeView {
    NodeView { name: "here".into(), zone: None, addresses: vec![[192, 0, 2, 1].into()] }
}

fn service(cluster_ip: [u8; 4]) -> ServiceConfig {
    ServiceConfig {
        cluster_ips: vec![cluster_ip.into()],
        ports: vec![PortConfig {
            name: "http".into(),
            protocol: Protocol::Tcp,
            port: 80,
            node_port: 0,
        }],
        ..ServiceConfig::default()
    }
}

fn slice(service: ObjectName, endpoints: &[(u8, Condition)]) -> Slice {
    let endpoint = |&(last, condition): &(u8, Condition)| SliceEndpoint {
        address: [10, 244, 0, last].into(),
        condition,
        node: Some("here".into()),
        node_hints: vec![],
        zone_hints: vec![],
    };
    Slice {
        service,
        family: Family::V4,
        ports: vec![SlicePort { name: "http".into(), protocol: Protocol::Tcp, port: 8080 }],
        endpoints: endpoints.iter().map(endpoint).collect(),
    }
}

fn synced() -> [Update; 4] {
    [
        Update::Node(node()),
        Update::Synced(Source::Services),
        Update::Synced(Source::Slices),
        Update::Synced(Source::Node),
    ]
}

fn row(writer: &Writer, name: &ObjectName) -> Option<ServicePort> {
    let mut rows = writer.table().iter().filter(|(key, _)| key.service == *name);
    rows.next().map(|(_, row)| row.value.clone())
}

#[test]
fn no_row_is_written_before_every_source_has_synced() {
    let mut writer = Writer::default();
    writer.apply([Update::Service(web(), service([10, 96, 0, 1]))]);
    for update in synced() {
        assert!(writer.table().is_empty(), "a row was written before {update:?}");
        writer.apply([update]);
    }
    assert_eq!(writer.table().len(), 1);
}

#[test]
fn a_slice_changes_only_the_rows_of_its_service() {
    let mut writer = Writer::default();
    let other = ObjectName::new("default", "other");
    writer.apply(synced());
    writer.apply([
        Update::Service(web(), service([10, 96, 0, 1])),
        Update::Service(other.clone(), service([10, 96, 0, 2])),
    ]);
    let before = writer.table().revision();
    let name = ObjectName::new("default", "web-1");
    writer.apply([Update::Slice(name.clone(), slice(web(), &[(1, Condition::Ready)]))]);
    assert_eq!(writer.table().changes_since(before).count(), 1);
    let backends = row(&writer, &web()).map(|row| row.backends);
    let address = SocketAddr::from(([10, 244, 0, 1], 8080));
    let expected = Backend { address, condition: Condition::Ready, local: true };
    assert_eq!(backends, Some([expected].into()));

    writer.apply([Update::SliceGone(name)]);
    assert_eq!(row(&writer, &web()).map(|row| row.backends.len()), Some(0));
}

#[test]
fn an_endpoint_in_two_slices_counts_once_in_its_better_condition() {
    let mut writer = Writer::default();
    writer.apply(synced());
    let named = |name: &str, condition| {
        Update::Slice(ObjectName::new("default", name), slice(web(), &[(1, condition)]))
    };
    writer.apply([
        Update::Service(web(), service([10, 96, 0, 1])),
        named("a", Condition::NotReady),
        named("b", Condition::Ready),
    ]);
    let row = row(&writer, &web()).expect("the service has a row");
    assert_eq!(row.backends.len(), 1);
    assert_eq!(row.cluster.as_ref(), [0]);
}

#[test]
fn a_contested_address_belongs_to_the_older_service_until_it_goes() {
    let mut writer = Writer::default();
    writer.apply(synced());
    let shared: IpAddr = [192, 0, 2, 80].into();
    let claimed_by = |writer: &Writer, name: &ObjectName| {
        row(writer, name).is_some_and(|row| row.frontends.iter().any(|f| f.address == Some(shared)))
    };
    let with = |ip, created| {
        let external_ips = vec![shared];
        ServiceConfig { external_ips, created, ..service(ip) }
    };
    let (young, old) = (ObjectName::new("a", "young"), ObjectName::new("b", "old"));
    writer.apply([Update::Service(young.clone(), with([10, 96, 0, 1], 20))]);
    assert!(claimed_by(&writer, &young));
    writer.apply([Update::Service(old.clone(), with([10, 96, 0, 2], 10))]);
    assert!(claimed_by(&writer, &old) && !claimed_by(&writer, &young));
    assert_eq!(writer.claims.waiting(), 1);
    writer.apply([Update::ServiceGone(old.clone())]);
    assert!(claimed_by(&writer, &young));
    assert_eq!(row(&writer, &old), None);
    assert_eq!(writer.claims.waiting(), 0);
}

#[test]
fn a_service_of_two_families_is_two_rows_with_backends_of_their_own() {
    let mut writer = Writer::default();
    writer.apply(synced());
    let mut config = service([10, 96, 0, 1]);
    config.cluster_ips.push("fd00::1".parse().expect("a literal"));
    let mut six = slice(web(), &[]);
    six.family = Family::V6;
    six.endpoints.push(SliceEndpoint {
        address: "fd00:1::5".parse().expect("a literal"),
        condition: Condition::Ready,
        node: None,
        node_hints: vec![],
        zone_hints: vec![],
    });
    writer.apply([
        Update::Service(web(), config),
        Update::Slice(ObjectName::new("default", "web-6"), six),
        Update::Slice(ObjectName::new("default", "web-4"), slice(web(), &[(1, Condition::Ready)])),
    ]);
    assert_eq!(writer.table().len(), 2);
    for (name, row) in writer.table().iter() {
        assert_eq!(row.value.backends.len(), 1);
        assert_eq!(Family::of(row.value.backends[0].address.ip()), name.family);
        assert_eq!(row.value.frontends.len(), 1);
    }
}

#[test]
fn health_checks_count_ready_endpoints_of_this_node() {
    let mut writer = Writer::default();
    writer.apply(synced());
    let config = ServiceConfig {
        external_policy: TrafficPolicy::Local,
        health_check_node_port: 31000,
        ..service([10, 96, 0, 1])
    };
    let conditions = [(1, Condition::Ready), (2, Condition::ServingTerminating)];
    writer.apply([
        Update::Service(web(), config),
        Update::Slice(ObjectName::new("default", "s"), slice(web(), &conditions)),
    ]);
    let expected = HealthCheck { service: web(), port: 31000, local_ready: 1 };
    assert_eq!(writer.changed_health_checks(), Some(vec![expected]));
    assert_eq!(writer.changed_health_checks(), None);
    writer.apply([Update::ServiceGone(web())]);
    assert_eq!(writer.changed_health_checks(), Some(vec![]));
}

#[test]
fn a_removed_port_loses_its_row() {
    let mut writer = Writer::default();
    writer.apply(synced());
    let mut config = service([10, 96, 0, 1]);
    config.ports.push(PortConfig {
        name: "dns".into(),
        protocol: Protocol::Udp,
        port: 53,
        node_port: 30053,
    });
    writer.apply([Update::Service(web(), config)]);
    assert_eq!(writer.table().len(), 2);
    writer.apply([Update::Service(web(), service([10, 96, 0, 1]))]);
    assert_eq!(writer.table().len(), 1);
    writer.apply([Update::ServiceGone(web())]);
    assert!(writer.table().is_empty());
}
