//! What the store's tests share.

use std::path::Path;
use std::sync::Arc;

use bowline_store::sqlite::{self, Options, Sqlite};
use bowline_store::{Event, Expect, Operation, Revision, Sink};
use parking_lot::Mutex;

pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Runtime::new().expect("threads can be started")
}

pub(crate) fn open(folder: &Path) -> Sqlite {
    sqlite::open(&folder.join("s.db"), Options::default()).expect("it opens")
}

pub(crate) fn key(number: u8) -> Arc<str> {
    format!("/k/{number}").into()
}

pub(crate) fn put(key: &str, value: &str, expect: Expect) -> Operation {
    Operation::Put { key: key.into(), value: value.to_owned().into(), expect }
}

pub(crate) fn delete(key: &str, expect: Expect) -> Operation {
    Operation::Delete { key: key.into(), expect }
}

/// Keeps the events that it is given.
#[derive(Clone, Default)]
pub(crate) struct Recorder(Arc<Mutex<Vec<Event>>>);

impl Recorder {
    pub(crate) fn sink(&self) -> Box<dyn Sink> {
        Box::new(self.clone())
    }

    pub(crate) fn events(&self) -> Vec<Event> {
        self.0.lock().clone()
    }

    pub(crate) fn reached(&self) -> Revision {
        self.0.lock().last().map_or(0, Event::revision)
    }
}

impl Sink for Recorder {
    fn apply(&mut self, events: &[Event]) -> bool {
        self.0.lock().extend_from_slice(events);
        true
    }
}
