//! Reading a log: from where, how much, and on as it grows.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use super::line::{self, Line};

/// A file is read backwards in pieces of this size to find its last lines.
const PIECE: u64 = 64 << 10;

/// Which lines are wanted, as the API's PodLogOptions say it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    pub tail_lines: Option<u64>,
    pub since: Option<Timestamp>,
    /// Bytes after which no more is sent.
    pub limit_bytes: Option<u64>,
    pub timestamps: bool,
    pub follow: bool,
    /// `Stdout`, `Stderr`; both when absent.
    pub stream: Option<Stream>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    Stdout,
    Stderr,
}

/// A position in a log that may be rotated while it is read.
pub struct Reader {
    path: PathBuf,
    file: BufReader<File>,
    options: Options,
    left: u64,
    /// Bytes of a line that is not complete yet.
    half: Vec<u8>,
    /// The line before ended within a longer line: its rest has no time of its own.
    within: bool,
}

impl Reader {
    /// Opens the log and goes to where reading begins.
    pub fn open(path: &Path, options: Options) -> std::io::Result<Self> {
        let mut file = File::open(path)?;
        if let Some(lines) = options.tail_lines {
            let start = start_of_tail(&mut file, lines)?;
            file.seek(SeekFrom::Start(start))?;
        }
        let left = options.limit_bytes.unwrap_or(u64::MAX);
        let file = BufReader::new(file);
        Ok(Self { path: path.to_owned(), file, options, left, half: Vec::new(), within: false })
    }

    /// Nothing more will ever be sent.
    pub fn is_full(&self) -> bool {
        self.left == 0
    }

    /// Appends what is there now to `out`, at most about `most` bytes; false when the end of the
    /// file was reached.
    pub fn fill(&mut self, out: &mut Vec<u8>, most: usize) -> std::io::Result<bool> {
        while out.len() < most && self.left > 0 {
            if self.file.read_until(b'\n', &mut self.half)? == 0 {
                return Ok(self.follow_rotation());
            }
            if !self.half.ends_with(b"\n") {
                return Ok(self.follow_rotation());
            }
            let raw = std::mem::take(&mut self.half);
            if let Some(line) = line::parse(&raw) {
                self.put(&line, out);
            }
        }
        Ok(self.left > 0)
    }

    fn put(&mut self, line: &Line<'_>, out: &mut Vec<u8>) {
        let wanted = match self.options.stream {
            Some(Stream::Stdout) => line.stdout,
            Some(Stream::Stderr) => !line.stdout,
            None => true,
        };
        let recent = || match self.options.since {
            Some(since) => line.timestamp().is_none_or(|t| t >= since),
            None => true,
        };
        if !wanted || !recent() {
            return;
        }
        let begin = out.len();
        if self.options.timestamps && !self.within {
            out.extend_from_slice(line.time.as_bytes());
            out.push(b' ');
        }
        out.extend_from_slice(line.text);
        self.within = !line.text.ends_with(b"\n");
        let added = u64::try_from(out.len() - begin).unwrap_or(u64::MAX);
        if added > self.left {
            out.truncate(begin + usize::try_from(self.left).unwrap_or(0));
        }
        self.left = self.left.saturating_sub(added);
    }

    /// At the end of the file: was it replaced by a new one? Then go on there.
    fn follow_rotation(&mut self) -> bool {
        let Ok(new) = File::open(&self.path) else { return false };
        let same = match (new.metadata(), self.file.get_ref().metadata()) {
            (Ok(a), Ok(b)) => a.ino() == b.ino() && a.dev() == b.dev(),
            _ => true,
        };
        if same {
            return false;
        }
        self.file = BufReader::new(new);
        self.half.clear();
        true
    }
}

/// Where the last `lines` lines begin.
fn start_of_tail(file: &mut File, lines: u64) -> std::io::Result<u64> {
    let size = file.metadata()?.len();
    if lines == 0 {
        return Ok(size);
    }
    let (mut end, mut found) = (size, 0);
    while end > 0 {
        let begin = end.saturating_sub(PIECE);
        file.seek(SeekFrom::Start(begin))?;
        let mut piece = Vec::new();
        file.take(end - begin).read_to_end(&mut piece)?;
        for (i, _) in piece.iter().enumerate().rev().filter(|(_, b)| **b == b'\n') {
            let after = begin + u64::try_from(i).unwrap_or(0) + 1;
            if after == size {
                continue;
            }
            found += 1;
            if found == lines {
                return Ok(after);
            }
        }
        end = begin;
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const LOG: &str = "2026-11-20T12:00:00Z stdout F one\n\
                       2026-11-20T12:00:01Z stderr F two\n\
                       2026-11-20T12:00:02Z stdout P thr\n\
                       2026-11-20T12:00:02Z stdout F ee\n";

    fn read(options: Options) -> String {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("0.log");
        std::fs::write(&path, LOG).expect("written");
        let mut reader = Reader::open(&path, options).expect("opened");
        let mut out = Vec::new();
        while reader.fill(&mut out, usize::MAX).expect("read") {}
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn options_choose_lines() {
        assert_eq!(read(Options::default()), "one\ntwo\nthree\n");
        let tail = |n| Options { tail_lines: Some(n), ..Options::default() };
        assert_eq!(read(tail(0)), "");
        assert_eq!(read(tail(3)), "two\nthree\n");
        assert_eq!(read(tail(9)), "one\ntwo\nthree\n");
        let since = "2026-11-20T12:00:01Z".parse().ok();
        assert_eq!(read(Options { since, ..Options::default() }), "two\nthree\n");
        let limit_bytes = Some(5);
        assert_eq!(read(Options { limit_bytes, ..Options::default() }), "one\nt");
        let stream = Some(Stream::Stderr);
        assert_eq!(read(Options { stream, ..Options::default() }), "two\n");
        let stamped = read(Options { timestamps: true, ..Options::default() });
        assert!(stamped.ends_with("2026-11-20T12:00:02Z three\n"), "{stamped}");
    }

    #[test]
    fn a_follower_goes_on_in_the_new_file_after_a_rotation() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("0.log");
        let mut file = File::create(&path).expect("made");
        file.write_all(b"2026-11-20T12:00:00Z stdout F a\n2026-11-20T12:0").expect("written");
        let mut reader = Reader::open(&path, Options::default()).expect("opened");
        let mut out = Vec::new();
        assert!(!reader.fill(&mut out, 1000).expect("read"));
        assert_eq!(out, b"a\n");
        file.write_all(b"0:01Z stdout F b\n").expect("written");
        std::fs::rename(&path, dir.path().join("0.log.1")).expect("rotated");
        std::fs::write(&path, "2026-11-20T12:00:02Z stdout F c\n").expect("written");
        while reader.fill(&mut out, 1000).expect("read") {}
        assert_eq!(out, b"a\nb\nc\n");
    }
}
