//! The store's contract, held against a model and against the process's death.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::support::{Recorder, delete, key, open, put, runtime};
use bowline_store::sqlite::{self, Options};
use bowline_store::{Event, Expect, Operation, Query, Revision, Store, StoreError};
use proptest::prelude::*;

/// The state at each revision that a sequence of changes led to.
#[derive(Default)]
struct Model {
    states: BTreeMap<Revision, BTreeMap<String, (String, Revision, Revision)>>,
    now: BTreeMap<String, (String, Revision, Revision)>,
    revision: Revision,
}

impl Model {
    /// What the store must answer to one transaction.
    fn commit(&mut self, operations: &[Operation]) -> Result<Vec<Revision>, ()> {
        let (now, revision) = (self.now.clone(), self.revision);
        let mut revisions = Vec::new();
        for operation in operations {
            let name = operation.key().to_string();
            let found = self.now.get(&name).map(|(_, _, modified)| *modified);
            let holds = match operation.expect() {
                Expect::Any => true,
                Expect::Absent => found.is_none(),
                Expect::At(wanted) => found == Some(wanted),
            };
            if !holds {
                (self.now, self.revision) = (now, revision);
                self.states.retain(|at, _| *at <= revision);
                return Err(());
            }
            match operation {
                Operation::Put { value, .. } => {
                    self.revision += 1;
                    let created = self.now.get(&name).map_or(self.revision, |(_, c, _)| *c);
                    let value = String::from_utf8(value.to_vec()).expect("tests write text");
                    self.now.insert(name, (value, created, self.revision));
                    self.states.insert(self.revision, self.now.clone());
                }
                Operation::Delete { .. } if self.now.remove(&name).is_some() => {
                    self.revision += 1;
                    self.states.insert(self.revision, self.now.clone());
                }
                Operation::Delete { .. } => {}
            }
            revisions.push(self.revision);
        }
        Ok(revisions)
    }

    fn at(&self, revision: Revision) -> BTreeMap<String, (String, Revision, Revision)> {
        self.states.get(&revision).cloned().unwrap_or_default()
    }
}

fn operation() -> impl Strategy<Value = (u8, u8, u8, bool)> {
    (0..6u8, 0..4u8, any::<u8>(), any::<bool>())
}

/// Expectations are drawn so that some hold and some don't.
fn build(model: &Model, (name, kind, value, deletes): (u8, u8, u8, bool)) -> Operation {
    let key = key(name);
    let found = model.now.get(&*key).map(|(_, _, modified)| *modified);
    let expect = match kind {
        0 => Expect::Absent,
        1 => found.map_or(Expect::Any, Expect::At),
        2 if value < 64 => Expect::At(found.unwrap_or(0) + 1),
        _ => Expect::Any,
    };
    if deletes {
        Operation::Delete { key, expect }
    } else {
        Operation::Put { key, value: format!("{name}={value}").into(), expect }
    }
}

async fn state(
    store: &sqlite::Sqlite,
    at: Revision,
) -> Result<BTreeMap<String, (String, Revision, Revision)>, StoreError> {
    let page = store.list(Query { prefix: "/k/".into(), at: Some(at), ..Query::default() }).await?;
    Ok(page
        .records
        .into_iter()
        .map(|r| {
            let value = String::from_utf8(r.value.to_vec()).expect("tests write text");
            (r.key.to_string(), (value, r.created, r.modified))
        })
        .collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn the_store_agrees_with_a_model_at_every_revision_and_after_reopening(
        transactions in proptest::collection::vec(
            proptest::collection::vec(operation(), 1..4), 1..40),
    ) {
        let folder = tempfile::tempdir().expect("a folder");
        let mut model = Model::default();
        runtime().block_on(async {
            let store = open(folder.path());
            let recorder = Recorder::default();
            store.subscribe(0, recorder.sink()).await.expect("nothing is trimmed yet");
            for transaction in transactions {
                let operations: Vec<_> =
                    transaction.into_iter().map(|op| build(&model, op)).collect();
                let expected = model.commit(&operations);
                let found = store.commit(operations).await.map_err(|_| ());
                assert_eq!(found, expected, "revisions, or a refusal");
                assert_eq!(store.revision(), model.revision);
            }
            let events = recorder.events();
            let seen: Vec<Revision> = events.iter().map(Event::revision).collect();
            assert_eq!(seen, (1..=model.revision).collect::<Vec<_>>(), "each change once");
            drop(store);
            let store = open(folder.path());
            assert_eq!(store.revision(), model.revision, "revisions go on after a restart");
            for revision in 0..=model.revision {
                let found = state(&store, revision).await.expect("nothing was trimmed");
                assert_eq!(found, model.at(revision), "the state at revision {revision}");
            }
        });
    }
}

#[test]
fn history_is_trimmed_to_its_bound_and_older_revisions_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    runtime().block_on(async {
        let options = Options { history_rows: 10, ..Options::default() };
        let store = sqlite::open(&folder.path().join("s.db"), options).expect("it opens");
        store.commit(vec![put("/k/still", "here", Expect::Any)]).await.expect("it is stored");
        for i in 0..100 {
            store.commit(vec![put("/k/a", &i.to_string(), Expect::Any)]).await.expect("stored");
        }
        let oldest = store.compacted();
        assert!((90..=100).contains(&oldest), "the last ten revisions are kept: {oldest}");
        assert!(matches!(state(&store, oldest - 1).await, Err(StoreError::Compacted { .. })));
        let kept = state(&store, oldest).await.expect("the oldest revision that is kept");
        assert_eq!(kept["/k/still"].0, "here", "trimming keeps what nothing replaced");
        let late = store.subscribe(oldest - 1, Recorder::default().sink()).await;
        assert!(matches!(late, Err(StoreError::Compacted { .. })));
        let recorder = Recorder::default();
        store.subscribe(oldest, recorder.sink()).await.expect("history is whole from here");
        assert_eq!(recorder.events().len() as u64, store.revision() - oldest);
    });
}

#[test]
fn a_revision_never_comes_back_when_its_rows_are_gone() {
    let folder = tempfile::tempdir().expect("a folder");
    let options = Options { history_rows: 0, ..Options::default() };
    let path = folder.path().join("s.db");
    let before = runtime().block_on(async {
        let store = sqlite::open(&path, options.clone()).expect("it opens");
        store.commit(vec![put("/k/a", "1", Expect::Any)]).await.expect("stored");
        store.commit(vec![delete("/k/a", Expect::Any)]).await.expect("removed");
        // Trims the tombstone of the last change but one.
        store.commit(vec![put("/k/b", "1", Expect::Any)]).await.expect("stored");
        store.commit(vec![delete("/k/b", Expect::Any)]).await.expect("removed");
        store.revision()
    });
    let store = sqlite::open(&path, options).expect("it opens again");
    assert_eq!(store.revision(), before);
}

#[test]
fn a_sink_sees_a_commit_before_its_writer_is_told() {
    let folder = tempfile::tempdir().expect("a folder");
    runtime().block_on(async {
        let store = Arc::new(open(folder.path()));
        let recorder = Recorder::default();
        store.subscribe(0, recorder.sink()).await.expect("subscribed");
        let mut writers = tokio::task::JoinSet::new();
        for writer in 0..8 {
            let (store, recorder) = (Arc::clone(&store), recorder.clone());
            writers.spawn(async move {
                for i in 0..50 {
                    let name = format!("/k/{writer}-{i}");
                    let done = store.commit(vec![put(&name, "x", Expect::Absent)]).await;
                    let revision = done.expect("nobody else writes it")[0];
                    assert!(recorder.reached() >= revision, "told before the sink was");
                }
            });
        }
        while let Some(done) = writers.join_next().await {
            done.expect("a writer found the contract broken");
        }
    });
}

#[test]
fn one_of_many_writers_of_the_same_revision_wins() {
    let folder = tempfile::tempdir().expect("a folder");
    runtime().block_on(async {
        let store = Arc::new(open(folder.path()));
        let first = store.commit(vec![put("/k/a", "0", Expect::Absent)]).await.expect("stored")[0];
        let mut writers = tokio::task::JoinSet::new();
        for i in 0..32 {
            let store = Arc::clone(&store);
            let write = put("/k/a", &i.to_string(), Expect::At(first));
            writers.spawn(async move { store.commit(vec![write]).await.is_ok() });
        }
        let mut won = 0;
        while let Some(done) = writers.join_next().await {
            won += usize::from(done.expect("no writer panics"));
        }
        assert_eq!(won, 1, "an expected revision is met once");
    });
}

#[test]
fn a_second_server_on_the_same_file_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("s.db");
    let _first = sqlite::open(&path, Options::default()).expect("it opens");
    let second = sqlite::open(&path, Options::default());
    assert!(matches!(second, Err(sqlite::OpenError::InUse { .. })));
}

#[test]
fn pages_follow_one_another_without_gap_or_repeat() {
    let folder = tempfile::tempdir().expect("a folder");
    runtime().block_on(async {
        let store = open(folder.path());
        for i in 0..25 {
            store.commit(vec![put(&format!("/k/{i:02}"), "x", Expect::Any)]).await.expect("stored");
        }
        store.commit(vec![put("/l/other", "x", Expect::Any)]).await.expect("stored");
        let (mut after, mut seen) = (None, Vec::new());
        loop {
            let query =
                Query { prefix: "/k/".into(), after: after.clone(), limit: Some(10), at: Some(20) };
            let page = store.list(query).await.expect("it is kept");
            seen.extend(page.records.iter().map(|r| r.key.to_string()));
            after = page.records.last().map(|r| r.key.to_string());
            if !page.more {
                break;
            }
        }
        let expected: Vec<String> = (0..20).map(|i| format!("/k/{i:02}")).collect();
        assert_eq!(seen, expected, "the state at revision 20");
    });
}
