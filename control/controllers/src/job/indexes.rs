//! Sets of completion indexes in the text form of the API: `0,2-4,7`. Pure.

use std::collections::BTreeSet;

/// Reads the text; what is no index is left out, and indexes from `limit` on too.
pub(crate) fn parse(text: &str, limit: i32) -> BTreeSet<i32> {
    let mut set = BTreeSet::new();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.parse::<i32>(), last.parse::<i32>()) {
            set.extend(first.max(0)..=last.min(limit - 1));
        }
    }
    set
}

/// Writes runs of two as two numbers, longer ones as ranges: as other clusters do.
pub(crate) fn format(set: &BTreeSet<i32>) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut run: Option<(i32, i32)> = None;
    for index in set {
        match &mut run {
            Some((_, last)) if *last + 1 == *index => *last = *index,
            _ => {
                parts.extend(run.map(part));
                run = Some((*index, *index));
            }
        }
    }
    parts.extend(run.map(part));
    parts.join(",")
}

fn part((first, last): (i32, i32)) -> String {
    match last - first {
        0 => first.to_string(),
        1 => format!("{first},{last}"),
        _ => format!("{first}-{last}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_set_agree() {
        for text in ["", "0", "0,1", "0-2", "0,2-4,7,9,10"] {
            assert_eq!(format(&parse(text, 100)), text);
        }
        assert_eq!(format(&parse("0-9", 3)), "0-2", "a limit cuts");
        assert_eq!(format(&parse("a,3-1,-2", 9)), "");
    }
}
