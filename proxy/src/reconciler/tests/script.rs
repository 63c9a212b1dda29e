//! The scripts in `tests/scripts`: a YAML file of steps; after each, what the maps say is compared
//! with the snapshot. The same script runs without failures, and with a tenth of all operations
//! failing, by several seeds: all must say the same in the end of every step.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::Deserialize;

use super::faulty::Faulty;
use crate::maps::{FakeMaps, Maps, SlotIndex};
use crate::model::ObjectName;
use crate::observe;
use crate::reconciler::Reconciler;
use crate::reflector::convert;
use crate::reflector::types::{EndpointSlice, Service};
use crate::table::Status;
use crate::writer::{Source, Update, Writer};

/// Rounds after which a step must have come to rest, retries included.
const ROUNDS: usize = 500;
/// Virtual time between two rounds.
const TICK: Duration = Duration::from_millis(100);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Step {
    name: String,
    #[serde(default)]
    apply: Vec<serde_yaml::Value>,
    #[serde(default)]
    delete: Vec<Reference>,
    #[serde(default)]
    synced: Vec<String>,
    /// The agent is killed before the step, and a new one starts on the same maps.
    #[serde(default)]
    restart: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Reference {
    kind: String,
    name: String,
}

struct Agent {
    writer: Writer,
    reconciler: Reconciler,
    pruned: bool,
    now: Instant,
}

impl Agent {
    fn start(maps: &Faulty) -> Self {
        Self {
            writer: Writer::default(),
            reconciler: Reconciler::restore(&maps.dump_now()),
            pruned: false,
            now: Instant::now(),
        }
    }

    /// Rounds until nothing is left to do.
    fn rest(&mut self, maps: &mut Faulty) {
        for _ in 0..ROUNDS {
            self.now += TICK;
            let synced = self.writer.is_synced();
            self.reconciler.reconcile(self.writer.table_mut(), maps, self.now);
            if synced && !self.pruned {
                self.pruned = true;
                self.reconciler.prune();
            } else if self.reconciler.failing() == 0 {
                while self.reconciler.quarantined() > 0 {
                    // A failed release is tried again.
                    let _retried = self.reconciler.settle(maps);
                }
                return;
            }
        }
        panic!("no rest after {ROUNDS} rounds: {} still fail", self.reconciler.failing());
    }
}

fn update(value: serde_yaml::Value) -> Update {
    let kind = value.get("kind").and_then(|kind| kind.as_str()).unwrap_or_default().to_owned();
    let broken = "the script's object parses";
    match kind.as_str() {
        "Service" => {
            let object: Service = serde_yaml::from_value(value).expect(broken);
            let name = convert::name_of(&object);
            match convert::service(&object) {
                Some(config) => Update::Service(name, config),
                None => Update::ServiceGone(name),
            }
        }
        "EndpointSlice" => {
            let object: EndpointSlice = serde_yaml::from_value(value).expect(broken);
            let slice = convert::slice(&object).expect("the script's slice is a Service's");
            Update::Slice(convert::name_of(&object), slice)
        }
        "Node" => Update::Node(convert::node_view(&serde_yaml::from_value(value).expect(broken))),
        other => panic!("a script knows no {other}"),
    }
}

fn gone(reference: &Reference) -> Update {
    let name = ObjectName::new("default", &reference.name);
    match reference.kind.as_str() {
        "Service" => Update::ServiceGone(name),
        "EndpointSlice" => Update::SliceGone(name),
        other => panic!("a script can't delete a {other}"),
    }
}

fn synced(source: &str) -> Update {
    Update::Synced(match source {
        "services" => Source::Services,
        "slices" => Source::Slices,
        "node" => Source::Node,
        other => panic!("a script knows no source {other}"),
    })
}

/// What the maps say, without the numbers that may differ from run to run.
fn describe(maps: &dyn Maps) -> String {
    let dump = maps.dump().expect("the fake dumps");
    let mut text = String::new();
    for mut row in observe::services(&dump) {
        row.backends.sort();
        row.local_backends.sort();
        let _infallible = write!(
            text,
            "{} {}:{} {} -> [{}]",
            row.kind,
            row.address,
            row.port,
            row.protocol,
            row.backends.join(", ")
        );
        for (what, shown) in [
            ("local", (!row.local_backends.is_empty()).then(|| row.local_backends.join(", "))),
            ("affinity", (row.affinity_seconds > 0).then(|| row.affinity_seconds.to_string())),
        ] {
            let _infallible = shown.map(|shown| write!(text, " {what} [{shown}]"));
        }
        text.push('\n');
    }
    let lines = |text: &mut String, what: &str, mut all: Vec<String>| {
        all.sort();
        if !all.is_empty() {
            let _infallible = writeln!(text, "{what}: {}", all.join(", "));
        }
    };
    let backends = observe::backends(&dump);
    let shown = backends
        .iter()
        .map(|b| format!("{} {}{}", b.address, b.state, if b.local { " here" } else { "" }));
    lines(&mut text, "backends", shown.collect());
    let vips = dump.vips.iter().map(|(address, flags)| format!("{address:?} {flags}"));
    lines(&mut text, "vips", vips.collect());
    let ranges = dump.source_ranges.iter();
    let ranges = ranges.map(|r| format!("{:?}/{}", r.address, r.prefix_length - 32));
    lines(&mut text, "source ranges", ranges.collect());
    text
}

/// No index in use twice, no backend without its service, no slot that leads to another's backend.
fn check_integrity(maps: &dyn Maps) {
    let dump = maps.dump().expect("the fake dumps");
    let mut slots_seen = BTreeSet::new();
    for (id, index, descriptor) in &dump.services {
        assert_eq!(descriptor.service, id.0, "descriptor {index:?} is another's");
        let all = descriptor.all_first..descriptor.all_first + descriptor.all_count;
        let local = descriptor.local_first..descriptor.local_first + descriptor.local_count;
        for slot in all.chain(local) {
            assert!(slots_seen.insert(slot), "slot {slot} is in two ranges");
            let backend = dump.slots.iter().find(|(s, _)| *s == SlotIndex(slot)).map(|(_, b)| b);
            let row = dump.backends.iter().find(|(index, _)| Some(index) == backend);
            let service = row.map(|(_, row)| row.service);
            assert_eq!(service, Some(id.0), "slot {slot} leads to another's backend");
        }
    }
}

fn run(script: &str, one_in: u64, seed: u64) -> (String, usize) {
    let mut maps = Faulty::new(FakeMaps::new(), one_in, seed);
    let mut agent = Agent::start(&maps);
    let mut text = String::new();
    for document in serde_yaml::Deserializer::from_str(script) {
        let step = Step::deserialize(document).expect("the script parses");
        if step.restart {
            agent = Agent::start(&maps);
        }
        let applied = step.apply.into_iter().map(update);
        let deleted = step.delete.iter().map(gone);
        agent.writer.apply(applied.chain(deleted).chain(step.synced.iter().map(|s| synced(s))));
        agent.rest(&mut maps);
        check_integrity(&maps);
        let unfinished = agent.writer.table().iter().find(|(_, row)| row.status != Status::Done);
        assert_eq!(unfinished, None, "after `{}`", step.name);
        let _infallible = write!(text, "## {}\n{}\n", step.name, describe(&maps));
    }
    (text, maps.failures)
}

fn check(name: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/scripts/{name}.yaml"));
    let script = std::fs::read_to_string(&path).expect("the script is there");
    let (calm, _) = run(&script, 0, 1);
    insta::with_settings!({ snapshot_path => "../../../tests/scripts", prepend_module_to_snapshot => false }, {
        insta::assert_snapshot!(name, calm);
    });
    let mut failures = 0;
    for seed in 1..=50 {
        let (faulty, failed) = run(&script, 10, seed);
        assert_eq!(faulty, calm, "seed {seed}");
        failures += failed;
    }
    assert!(failures > 0, "no operation failed, so nothing was tried");
}

#[test]
fn a_service_lives_and_dies() {
    check("lifecycle");
}

#[test]
fn unknown_sources_never_prune_and_a_restart_takes_over() {
    check("restart");
}

#[test]
fn every_kind_of_address_is_served() {
    check("addresses");
}

#[test]
fn an_address_moves_from_one_service_to_another() {
    check("moves");
}
