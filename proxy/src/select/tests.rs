use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

fn here() -> NodeView {
    NodeView { name: "here".into(), zone: Some("east".into()), addresses: vec![] }
}

fn endpoint(last: u8, condition: Condition, node: &str) -> Endpoint {
    Endpoint {
        address: SocketAddr::from(([10, 0, 0, last], 80)),
        condition,
        node: Some(node.into()),
        node_hints: vec![],
        zone_hints: vec![],
    }
}

fn hinted(last: u8, node_hint: &str, zone_hint: &str) -> Endpoint {
    let hints = |hint: &str| match hint {
        "" => vec![],
        hint => vec![hint.into()],
    };
    Endpoint {
        node_hints: hints(node_hint),
        zone_hints: hints(zone_hint),
        ..endpoint(last, Ready, "there")
    }
}

const LOCAL: Policies = Policies { internal: TrafficPolicy::Local, external: TrafficPolicy::Local };

use Condition::{NotReady, Ready, ServingTerminating};

#[test]
fn only_ready_endpoints_take_new_connections() {
    let all =
        [endpoint(1, Ready, "x"), endpoint(2, ServingTerminating, "x"), endpoint(3, NotReady, "x")];
    assert_eq!(reachable(&all, &here()).cluster, [0]);
}

#[test]
fn terminating_endpoints_serve_when_none_is_ready_for_each_policy_apart() {
    let all = [endpoint(1, Ready, "there"), endpoint(2, ServingTerminating, "here")];
    assert_eq!(reachable(&all, &here()), Reachable { cluster: vec![0], local: vec![1] });
    let all = [endpoint(1, NotReady, "there"), endpoint(2, ServingTerminating, "there")];
    assert_eq!(reachable(&all, &here()), Reachable { cluster: vec![1], local: vec![] });
}

#[test]
fn same_node_is_preferred_before_same_zone() {
    let all = [hinted(1, "here", "east"), hinted(2, "there", "east"), hinted(3, "there", "west")];
    assert_eq!(reachable(&all, &here()).cluster, [0]);
    let all = [hinted(1, "other", "east"), hinted(2, "there", "east"), hinted(3, "there", "west")];
    assert_eq!(reachable(&all, &here()).cluster, [0, 1], "no node matches: the zone decides");
}

#[test]
fn hints_count_only_if_all_ready_endpoints_have_them() {
    let all = [hinted(1, "here", ""), hinted(2, "", "")];
    assert_eq!(reachable(&all, &here()).cluster, [0, 1]);
    let mut leaving = hinted(2, "", "");
    leaving.condition = ServingTerminating;
    assert_eq!(reachable(&[hinted(1, "here", ""), leaving], &here()).cluster, [0]);
}

#[test]
fn a_zone_without_endpoints_uses_all() {
    let all = [hinted(1, "", "west"), hinted(2, "", "north")];
    assert_eq!(reachable(&all, &here()).cluster, [0, 1]);
    let nowhere = NodeView { zone: None, ..here() };
    assert_eq!(reachable(&[hinted(1, "", "west")], &nowhere).cluster, [0]);
}

#[test]
fn no_endpoint_anywhere_is_refused_and_none_here_is_dropped_under_local() {
    let none = reachable(&[endpoint(1, NotReady, "here")], &here());
    let elsewhere = reachable(&[endpoint(1, Ready, "there")], &here());
    for (destination, client) in
        [(Destination::ClusterIp, Client::Inside), (Destination::External, Client::Outside)]
    {
        assert_eq!(verdict(&none, LOCAL, destination, client), Verdict::Refuse);
        assert_eq!(verdict(&elsewhere, LOCAL, destination, client), Verdict::Drop);
    }
}

#[test]
fn external_addresses_from_inside_are_under_no_policy() {
    let elsewhere = reachable(&[endpoint(1, Ready, "there")], &here());
    let verdict = verdict(&elsewhere, LOCAL, Destination::External, Client::Inside);
    assert_eq!(verdict, Verdict::Forward(&[0]));
}

#[test]
fn affinity_holds_until_its_time_is_over_or_its_endpoint_is_gone() {
    let remembered = |endpoint, age_seconds| Some(Remembered { endpoint, age_seconds });
    assert_eq!(pick(&[4, 5, 6], remembered(6, 9), 10, 0), Some(6));
    assert_eq!(pick(&[4, 5, 6], remembered(6, 10), 10, 0), Some(4));
    assert_eq!(pick(&[4, 5], remembered(6, 0), 10, u32::MAX), Some(5));
    assert_eq!(pick(&[], remembered(6, 0), 10, 7), None);
}

#[test]
fn every_slot_gets_its_share() {
    let choice: Vec<usize> = (0..7).collect();
    let mut hits = [0u32; 7];
    for i in 0..70_000u32 {
        let random = i.wrapping_mul(0x9E37_79B9);
        hits[pick(&choice, None, 0, random).expect("the choice is not empty")] += 1;
    }
    assert!(hits.iter().all(|n| (9_500..10_500).contains(n)), "uneven: {hits:?}");
}

pub(crate) fn any_endpoints() -> impl Strategy<Value = Vec<Endpoint>> {
    let condition =
        prop_oneof![3 => Just(Ready), 1 => Just(ServingTerminating), 1 => Just(NotReady)];
    let names = prop::sample::select(vec!["here", "there", "east", "west"]);
    let hints = || vec(names.clone().prop_map(Arc::<str>::from), 0..2);
    let node = prop::option::of(names.clone().prop_map(Arc::<str>::from));
    let one = (condition, node, hints(), hints());
    vec(one, 0..8).prop_map(|all| {
        let with_address = |(i, (condition, node, node_hints, zone_hints))| Endpoint {
            address: SocketAddr::from(([10, 0, 0, i as u8], 80)),
            condition,
            node,
            node_hints,
            zone_hints,
        };
        all.into_iter().enumerate().map(with_address).collect()
    })
}

proptest! {
    #[test]
    fn a_choice_is_uniform_in_condition_and_empty_only_if_nobody_serves(all in any_endpoints()) {
        let found = reachable(&all, &here());
        let count = |c: Condition| all.iter().filter(|e| e.condition == c).count();
        prop_assert_eq!(found.cluster.is_empty(), count(Ready) + count(ServingTerminating) == 0);
        let expected = if count(Ready) > 0 { Ready } else { ServingTerminating };
        prop_assert!(found.cluster.iter().all(|&i| all[i].condition == expected));
        prop_assert!(found.local.iter().all(|&i| all[i].node.as_deref() == Some("here")));
        prop_assert!(found.local.windows(2).all(|w| all[w[0]].condition == all[w[1]].condition));
    }

    #[test]
    fn local_endpoints_are_found_whatever_the_hints_say(all in any_endpoints()) {
        let serving_here = all.iter().any(|e| {
            e.node.as_deref() == Some("here") && e.condition != NotReady
        });
        prop_assert_eq!(!reachable(&all, &here()).local.is_empty(), serving_here);
    }

    #[test]
    fn nobody_is_refused_while_someone_serves(
        all in any_endpoints(), internal in any::<bool>(), external in any::<bool>(),
    ) {
        let policy = |local| if local { TrafficPolicy::Local } else { TrafficPolicy::Cluster };
        let policies = Policies { internal: policy(internal), external: policy(external) };
        let found = reachable(&all, &here());
        let serving = all.iter().any(|e| e.condition != NotReady);
        for destination in [Destination::ClusterIp, Destination::External] {
            for client in [Client::Inside, Client::Outside] {
                let verdict = verdict(&found, policies, destination, client);
                prop_assert_eq!(verdict == Verdict::Refuse, !serving);
            }
        }
    }
}
