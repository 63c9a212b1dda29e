//! Logs of containers, as the runtime writes them.

pub mod line;
pub mod read;
pub mod rotate;

use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use crate::runtime::{Container, labels};

/// Last words longer than this are cut at their beginning, in bytes.
const MAX_WORDS: u64 = 4096;
/// Part of the log that stands for last words: bytes and lines.
const MAX_LOG: u64 = 2048;
const MAX_LOG_LINES: usize = 80;

/// What a container that ended left in its termination message file, or in its log where its
/// policy says so.
pub fn last_words(c: &Container, file: &Path) -> String {
    let words = tail(file, MAX_WORDS).unwrap_or_default();
    if !words.is_empty() {
        return String::from_utf8_lossy(&words).into_owned();
    }
    let policy = c.annotations.get(labels::TERMINATION_POLICY).map(String::as_str);
    if policy != Some("FallbackToLogsOnError") || c.exit_code == 0 {
        return String::new();
    }
    // Every line carries a time and marks of its own, so more than the limit is read.
    let raw = tail(Path::new(&c.log_path), MAX_LOG * 4).unwrap_or_default();
    let mut lines: Vec<_> = raw.split_inclusive(|b| *b == b'\n').filter_map(line::parse).collect();
    lines.drain(..lines.len().saturating_sub(MAX_LOG_LINES));
    let mut text: Vec<u8> = lines.iter().flat_map(|l| l.text.iter().copied()).collect();
    let surplus = text.len().saturating_sub(usize::try_from(MAX_LOG).unwrap_or(usize::MAX));
    text.drain(..surplus);
    String::from_utf8_lossy(&text).into_owned()
}

fn tail(path: &Path, bytes: u64) -> std::io::Result<Vec<u8>> {
    let mut file = std::fs::File::open(path)?;
    let size = file.metadata()?.len();
    file.seek(SeekFrom::Start(size.saturating_sub(bytes)))?;
    let mut content = Vec::new();
    file.take(bytes).read_to_end(&mut content)?;
    Ok(content)
}
