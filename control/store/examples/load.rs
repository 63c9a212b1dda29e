//! Writes as fast as it can and says which writes were acknowledged: the durability tests kill it,
//! or cut the power under it.
//!
//! `load FOLDER ACKNOWLEDGED`: eight writers put `/k/<writer>/<i>`, each acknowledged one is a line
//! `<writer> <i> <revision>` in the file ACKNOWLEDGED (which should lie on another file system).

use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use anyhow::Context as _;
use bowline_store::sqlite::{self, Options};
use bowline_store::{Expect, Operation, Store};

const WRITERS: usize = 8;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1).map(PathBuf::from);
    let folder = arguments.next().context("the store's folder is missing")?;
    let acknowledged = arguments.next().context("the file for acknowledged writes is missing")?;
    let acknowledged =
        Arc::new(Mutex::new(File::options().append(true).create(true).open(acknowledged)?));
    let store = Arc::new(sqlite::open(&folder.join("s.db"), Options::default())?);
    let start = store.revision();
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..WRITERS {
        let (store, acknowledged) = (Arc::clone(&store), Arc::clone(&acknowledged));
        writers.spawn(async move {
            for i in start.. {
                let key = format!("/k/{writer}/{i}").into();
                let value = format!("{writer}-{i}").repeat(50).into();
                let put = Operation::Put { key, value, expect: Expect::Absent };
                let Ok(revisions) = store.commit(vec![put]).await else { return };
                let line = format!("{writer} {i} {}\n", revisions[0]);
                let mut file = acknowledged.lock().expect("no writer panics");
                if file.write_all(line.as_bytes()).is_err() {
                    return;
                }
            }
        });
    }
    while writers.join_next().await.is_some() {}
    Ok(())
}
