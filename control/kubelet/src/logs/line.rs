//! One line of a CRI log: `<RFC 3339 time> <stdout|stderr> <F|P> <text>`.

use jiff::Timestamp;

/// A line that the container wrote, or a part of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line<'a> {
    /// As the runtime wrote it.
    pub time: &'a str,
    pub stdout: bool,
    /// With its line end, except for a part of a longer line.
    pub text: &'a [u8],
}

impl Line<'_> {
    pub fn timestamp(&self) -> Option<Timestamp> {
        self.time.parse().ok()
    }
}

/// Parses a whole line with its line end; anything else is nothing.
pub fn parse(raw: &[u8]) -> Option<Line<'_>> {
    if !raw.ends_with(b"\n") {
        return None;
    }
    let (time, rest) = word(raw)?;
    let (stream, rest) = word(rest)?;
    let (tags, text) = word(rest)?;
    let partial = tags.split(|b| *b == b':').next() == Some(b"P");
    let text = if partial { &text[..text.len() - 1] } else { text };
    let stdout = match stream {
        b"stdout" => true,
        b"stderr" => false,
        _ => return None,
    };
    Some(Line { time: std::str::from_utf8(time).ok()?, stdout, text })
}

fn word(raw: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = raw.iter().position(|b| *b == b' ')?;
    Some((&raw[..end], &raw[end + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_lines_keep_their_end_and_parts_have_none() {
        let full = parse(b"2026-11-20T12:00:00.5Z stdout F a b\n").expect("a line");
        assert_eq!((full.stdout, full.text), (true, &b"a b\n"[..]));
        assert!(full.timestamp().is_some());
        let part = parse(b"2026-11-20T12:00:00Z stderr P abc\n").expect("a part");
        assert_eq!((part.stdout, part.text), (false, &b"abc"[..]));
        let empty = parse(b"2026-11-20T12:00:00Z stdout F \n").expect("an empty line");
        assert_eq!(empty.text, b"\n");
    }

    #[test]
    fn what_is_not_whole_is_nothing() {
        assert_eq!(parse(b"2026-11-20T12:00:00Z stdout F half"), None);
        assert_eq!(parse(b"noise\n"), None);
        assert_eq!(parse(b"2026 other F x\n"), None);
    }
}
