//! Rules that a compiler does not keep: sizes, the order of the floors, pages that tell the truth.

#![expect(clippy::unwrap_used, reason = "these are tests: what can't be read fails them")]

use std::fs;
use std::path::{Path, PathBuf};

/// Lines of a source file, tests apart.
const LONGEST_FILE: usize = 500;
/// Lines of a function.
const LONGEST_FUNCTION: usize = 100;
/// Lines of tests inside the file that they test; more move to `foo/tests.rs`.
const LONGEST_INNER_TESTS: usize = 160;

/// The crates, each floor above those that it may use. Siblings never import each other.
const FLOORS: [&[&str]; 5] = [
    &["bowline-abi", "bowline-api"],
    &["bowline-store", "bowline-schema", "bowline-cni", "bowline-local"],
    &[
        "bowline-apiserver",
        "bowline-controllers",
        "bowline-scheduler",
        "bowline-kubelet",
        "bowline-proxy",
        "bowline-dns",
    ],
    &["bowline"],
    &["bowline-tests"],
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn files(folder: &Path, extension: &str, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if name.starts_with('.') || name == "target" {
            continue;
        }
        if path.is_dir() {
            files(&path, extension, found);
        } else if path.extension().is_some_and(|e| e == extension) {
            found.push(path);
        }
    }
}

fn sources() -> Vec<(String, String)> {
    let mut found = Vec::new();
    files(&root(), "rs", &mut found);
    assert!(found.len() > 50, "the sources were not found");
    found
        .into_iter()
        .map(|path| {
            let text = fs::read_to_string(&path).unwrap();
            (path.strip_prefix(root()).unwrap().display().to_string(), text)
        })
        .collect()
}

/// Tests have longer files: cases are data.
fn is_test(path: &str) -> bool {
    path.contains("/tests/") || path.ends_with("/tests.rs") || path.ends_with("_tests.rs")
}

fn report(problems: &[String]) {
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}

#[test]
fn no_file_outgrows_its_job() {
    let mut problems = Vec::new();
    for (path, text) in sources() {
        let lines: Vec<&str> = text.lines().collect();
        let inner = lines.windows(2).position(|pair| {
            pair[0] == "#[cfg(test)]" && pair[1].starts_with("mod ") && pair[1].ends_with('{')
        });
        let own = inner.unwrap_or(lines.len());
        if !is_test(&path) && own > LONGEST_FILE {
            problems.push(format!("{path}: {own} lines without tests, at most {LONGEST_FILE}"));
        }
        let inner_lines = lines.len() - own;
        if !is_test(&path) && inner_lines > LONGEST_INNER_TESTS {
            problems.push(format!("{path}: {inner_lines} lines of tests; move them to tests.rs"));
        }
    }
    report(&problems);
}

#[test]
fn every_function_fits_a_screen() {
    let mut problems = Vec::new();
    for (path, text) in sources() {
        let mut open: Option<(usize, usize, String)> = None;
        for (number, line) in text.lines().enumerate() {
            let indent = line.len() - line.trim_start().len();
            let code = line.trim_start();
            let starts = [
                "fn ",
                "pub fn ",
                "async fn ",
                "pub async fn ",
                "pub(crate) fn ",
                "pub(super) fn ",
                "pub(crate) async fn ",
                "unsafe fn ",
            ]
            .iter()
            .any(|start| code.starts_with(start));
            if open.is_none() && starts && !code.ends_with(';') {
                open = Some((number, indent, code.to_owned()));
            }
            if let Some((start, level, head)) = &open
                && indent == *level
                && (code == "}" || (number == *start && code.ends_with('}')))
            {
                let length = number - start + 1;
                if length > LONGEST_FUNCTION {
                    problems.push(format!("{path}:{}: {length} lines: {head}", start + 1));
                }
                open = None;
            }
        }
    }
    report(&problems);
}

#[test]
fn every_file_says_what_it_is_for() {
    let problems: Vec<String> = sources()
        .into_iter()
        .filter(|(path, _)| !path.ends_with("/tests.rs"))
        .filter(|(_, text)| !text.starts_with("//!") && !text.starts_with("#!["))
        .map(|(path, _)| format!("{path}: no //! on its first line"))
        .collect();
    report(&problems);
}

#[test]
fn no_file_has_a_name_that_says_nothing() {
    let empty =
        ["utils.rs", "util.rs", "helpers.rs", "consts.rs", "constants.rs", "common.rs", "misc.rs"];
    let problems: Vec<String> = sources()
        .into_iter()
        .map(|(path, _)| path)
        .filter(|path| empty.iter().any(|name| path.ends_with(&format!("/{name}"))))
        .collect();
    report(&problems);
}

#[test]
fn nothing_unfinished_is_left_in_the_code() {
    let marks = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("X", "XX:"),
        concat!("unimplemented", "!("),
    ];
    let mut problems = Vec::new();
    for (path, text) in sources() {
        for (number, line) in text.lines().enumerate() {
            if marks.iter().any(|mark| line.contains(mark)) {
                problems.push(format!("{path}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    report(&problems);
}

#[test]
fn crates_depend_only_on_floors_below() {
    let mut manifests = Vec::new();
    files(&root(), "toml", &mut manifests);
    let floor = |name: &str| FLOORS.iter().position(|crates| crates.contains(&name));
    let mut seen = 0;
    let mut problems = Vec::new();
    for path in manifests.iter().filter(|path| path.ends_with("Cargo.toml")) {
        let text = fs::read_to_string(path).unwrap();
        let Some(own) = text.lines().find_map(|l| l.strip_prefix("name = \"bowline")) else {
            continue;
        };
        let own = format!("bowline{}", own.trim_end_matches('"'));
        let Some(level) = floor(&own) else { continue };
        seen += 1;
        let dependencies = text.split("[dependencies]").nth(1).unwrap_or("");
        let dependencies = dependencies.split("\n[").next().unwrap_or("");
        for line in dependencies.lines().filter(|line| line.starts_with("bowline")) {
            let name = line.split(['.', ' ', '=']).next().unwrap();
            match floor(name) {
                Some(below) if below < level => {}
                _ => problems.push(format!("{own} (floor {level}) imports {name}")),
            }
        }
    }
    assert_eq!(seen, FLOORS.iter().map(|f| f.len()).sum::<usize>(), "a crate has no floor");
    report(&problems);
}

#[test]
fn every_path_that_the_pages_name_exists() {
    let mut problems = Vec::new();
    for page in ["README.md", "ARCHITECTURE.md"] {
        let text = fs::read_to_string(root().join(page)).unwrap();
        for word in text.split('`').skip(1).step_by(2) {
            let folder = word.split('/').next().unwrap_or("");
            let ours = ["api", "cni", "control", "deploy", "dns", "docs", "ebpf", "proxy", "tests"];
            if !word.contains('/') || !ours.contains(&folder) || word.contains([' ', '*', '{', '<'])
            {
                continue;
            }
            if !root().join(word).exists() {
                problems.push(format!("{page} names {word}, which does not exist"));
            }
        }
    }
    report(&problems);
}

#[test]
fn unsafe_code_stays_at_the_kernel_edge() {
    let edges = [
        "ebpf/",
        "proxy/src/loader/",
        "proxy/src/maps/",
        "proxy/tests/",
        "control/local/",
        "control/kubelet/",
        "cni/",
        "dns/",
        "control/store/tests/",
    ];
    let keyword = concat!("unsafe", " {");
    let problems: Vec<String> = sources()
        .into_iter()
        .filter(|(path, text)| text.contains(keyword) && !edges.iter().any(|e| path.starts_with(e)))
        .map(|(path, _)| path)
        .collect();
    report(&problems);
}
