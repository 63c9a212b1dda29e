//! The `bowline` command as people and service managers meet it: exit codes and what it says.

use std::net::TcpListener;
use std::process::{Command, Output};

const BOWLINE: &str = env!("CARGO_BIN_EXE_bowline");

fn run(arguments: &[&str]) -> Output {
    Command::new(BOWLINE)
        .args(arguments)
        .env_remove("BOWLINE_TOKEN")
        .output()
        .expect("it was built")
}

fn code_and_complaint(output: &Output) -> (Option<i32>, String) {
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn what_trying_again_can_not_cure_ends_with_the_code_that_the_units_do_not_restart() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().to_str().unwrap();
    let agent = |rest: &[&str]| {
        let start = ["agent", "--data-dir", data, "--cri-socket", "none", "--node-ip", "127.0.0.1"];
        let output = run(&[&start, rest].concat());
        code_and_complaint(&output)
    };
    let server = "--server=https://127.0.0.1:1";
    for (rest, complaint) in [
        (&["--server=127.0.0.1:1"][..], "https://192.168.1.10:6443"),
        (&["--server=http://127.0.0.1:1"], "https://192.168.1.10:6443"),
        (&[server], "bowline token"),
        (&[server, "--token=abc"], "bowline token"),
        (&[server, "--token=abc", "--node-name=No_Name"], "--node-name"),
    ] {
        let (code, said) = agent(rest);
        assert_eq!(code, Some(i32::from(bowline::USAGE)), "{rest:?}: {said}");
        let may_run = nix::unistd::geteuid().is_root() || said.contains("URL");
        let expected = if may_run { complaint } else { "needs root" };
        assert!(said.contains(expected), "{rest:?}: {said}");
        assert!(!said.contains("panicked"), "{rest:?}: {said}");
    }
    let units = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/systemd");
    for unit in std::fs::read_dir(units).unwrap() {
        let text = std::fs::read_to_string(unit.unwrap().path()).unwrap();
        assert!(text.contains(&format!("RestartPreventExitStatus={}\n", bowline::USAGE)));
    }
}

#[test]
fn a_server_whose_port_is_taken_says_so_and_may_be_restarted() {
    let folder = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let data = folder.path().to_str().unwrap();
    let output =
        run(&["server", "--data-dir", data, "--advertise-address=127.0.0.1", "--port", &port]);
    let (code, said) = code_and_complaint(&output);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("cannot listen") && said.contains(&port), "{said}");
}

#[test]
fn a_data_folder_that_can_not_be_is_named_with_the_flag_for_another() {
    let output = run(&["server", "--advertise-address=127.0.0.1", "--data-dir=/proc/no-folder"]);
    let (code, said) = code_and_complaint(&output);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("/proc/no-folder") && said.contains("--data-dir"), "{said}");
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output =
        Command::new(BOWLINE).args(["completion", "bash"]).stdout(writer).output().unwrap();
    assert_eq!(code_and_complaint(&output), (Some(0), String::new()));
}

#[test]
fn the_images_are_written_for_nodes_that_are_not_ours() {
    let folder = tempfile::tempdir().unwrap();
    let programs = folder.path().join("bin");
    std::fs::create_dir(&programs).unwrap();
    let program = programs.join("bowline");
    std::fs::copy(BOWLINE, &program).unwrap();
    let images = folder.path().join("images");
    let run = || Command::new(&program).arg("images").arg(&images).output().unwrap();
    let (code, said) = code_and_complaint(&run());
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("bowline-proxy") && said.contains("missing"), "{said}");
    for name in ["bowline-proxy", "bowline-cni", "bowline-dns"] {
        std::fs::write(programs.join(name), name).unwrap();
    }
    let output = run();
    assert_eq!(code_and_complaint(&output), (Some(0), String::new()));
    let written = String::from_utf8(output.stdout).unwrap();
    let names: Vec<_> = written.lines().filter_map(|line| line.rsplit('/').next()).collect();
    assert_eq!(names, ["pause.tar", "proxy.tar", "dns.tar", "busybox.tar"]);
    assert!(written.lines().all(|line| std::fs::metadata(line).is_ok_and(|file| file.len() > 0)));
}
