//! What no script shows: how many grace periods, and what stays when nothing changes.

use std::time::Instant;

use crate::maps::{FakeMaps, Maps};
use crate::model::{
    Condition, Family, NodeView, ObjectName, PortConfig, Protocol, ServiceConfig, Slice,
    SliceEndpoint, SlicePort,
};
use crate::reconciler::Reconciler;
use crate::table::Status;
use crate::writer::{Source, Update, Writer};

fn synced_writer() -> Writer {
    let mut writer = Writer::default();
    writer.apply([
        Update::Node(NodeView { name: "here".into(), zone: None, addresses: vec![] }),
        Update::Synced(Source::Services),
        Update::Synced(Source::Slices),
        Update::Synced(Source::Node),
    ]);
    writer
}

fn service(last: u8) -> Update {
    let port = PortConfig { name: "".into(), protocol: Protocol::Tcp, port: 80, node_port: 0 };
    let config = ServiceConfig {
        cluster_ips: vec![[10, 96, 0, last].into()],
        ports: vec![port],
        ..ServiceConfig::default()
    };
    Update::Service(ObjectName::new("default", &format!("s{last}")), config)
}

fn slice(last: u8, endpoint: u8) -> Update {
    let endpoint = SliceEndpoint {
        address: [10, 244, 0, endpoint].into(),
        condition: Condition::Ready,
        node: None,
        node_hints: vec![],
        zone_hints: vec![],
    };
    let name = ObjectName::new("default", &format!("s{last}"));
    let ports = vec![SlicePort { name: "".into(), protocol: Protocol::Tcp, port: 80 }];
    let endpoints = vec![endpoint];
    let slice = Slice { service: name.clone(), family: Family::V4, ports, endpoints };
    Update::Slice(name, slice)
}

#[test]
fn many_changes_share_one_grace_period() {
    let (mut writer, mut maps) = (synced_writer(), FakeMaps::new());
    let mut reconciler = Reconciler::default();
    writer.apply((1..=100).flat_map(|i| [service(i), slice(i, i)]));
    reconciler.reconcile(writer.table_mut(), &mut maps, Instant::now());
    reconciler.settle(&mut maps).expect("the fake does not fail");
    let before = maps.graces();
    writer.apply((1..=100).map(|i| slice(i, 200)));
    reconciler.reconcile(writer.table_mut(), &mut maps, Instant::now());
    assert_eq!(maps.graces(), before, "a round waits for nothing");
    assert!(reconciler.quarantined() >= 200);
    reconciler.settle(&mut maps).expect("the fake does not fail");
    assert_eq!((maps.graces(), reconciler.quarantined()), (before + 1, 0));
}

#[test]
fn nothing_leaks_when_services_come_and_go() {
    let (mut writer, mut maps) = (synced_writer(), FakeMaps::new());
    let mut reconciler = Reconciler::default();
    for round in 0..20u8 {
        writer.apply((1..=10).flat_map(|i| [service(i), slice(i, round + 1)]));
        reconciler.reconcile(writer.table_mut(), &mut maps, Instant::now());
        writer.apply(
            (1..=10).map(|i| Update::ServiceGone(ObjectName::new("default", &format!("s{i}")))),
        );
        reconciler.reconcile(writer.table_mut(), &mut maps, Instant::now());
        reconciler.settle(&mut maps).expect("the fake does not fail");
    }
    let pools = &reconciler.kernel.pools;
    assert_eq!((pools.ids.in_use(), pools.descriptors.in_use()), (0, 0));
    assert_eq!((pools.backends.in_use(), pools.slots.free()), (0, bowline_abi::MAX_SLOTS));
    assert_eq!(writer.table().deletions_pending(), 0);
    let dump = maps.dump().expect("the fake dumps");
    assert!(dump.frontends.is_empty() && dump.vips.is_empty() && dump.services.is_empty());
}

#[test]
fn an_equal_service_is_not_flipped_after_a_restart() {
    let (mut writer, mut maps) = (synced_writer(), FakeMaps::new());
    writer.apply([service(1), slice(1, 1), service(2)]);
    Reconciler::default().reconcile(writer.table_mut(), &mut maps, Instant::now());
    let before = maps.dump().expect("the fake dumps");

    let mut writer = synced_writer();
    let mut reconciler = Reconciler::restore(&before);
    assert_eq!(reconciler.unclaimed(), 2);
    // The other order: ids must come from the maps, not from the order.
    writer.apply([service(2), slice(1, 1), service(1)]);
    reconciler.reconcile(writer.table_mut(), &mut maps, Instant::now());
    assert_eq!((reconciler.prune(), reconciler.quarantined()), (0, 0));
    assert_eq!(maps.dump().expect("the fake dumps"), before);
    assert!(writer.table().iter().all(|(_, row)| row.status == Status::Done));
}
