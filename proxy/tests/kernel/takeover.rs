//! Restart, upgrade, wrong set-ups and removal.

use std::collections::BTreeMap;
use std::fs;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::path::Path;

use bowline_proxy::loader::{self, Config, Dataplane, LoadError, layout, sys};
use bowline_proxy::maps::abi::*;
use bowline_proxy::maps::{BpfMaps, Maps, OpenError, Usage};

use crate::lab::{Lab, chain, ip};
use crate::services::{Service, here};

fn map_ids(config: &Config) -> BTreeMap<&'static str, u32> {
    let id = |definition: &&'static layout::Definition| {
        let fd = layout::open(&config.pins(), definition).expect("a pinned map");
        (definition.name, sys::map_info(fd.as_fd()).expect("its description").id)
    };
    layout::ALL.iter().map(id).collect()
}

fn link_programs(config: &Config) -> BTreeMap<String, u32> {
    let links = fs::read_dir(config.pins().join("links")).expect("list the links");
    let program = |entry: fs::DirEntry| {
        let fd = sys::open_pin(&entry.path()).expect("a pinned link");
        let info = sys::link_info(fd.as_fd()).expect("its description");
        (entry.file_name().to_string_lossy().into_owned(), info.program)
    };
    links.flatten().map(program).collect()
}

fn error_of(result: Result<Dataplane, LoadError>) -> LoadError {
    match result {
        Ok(_) => panic!("the dataplane started"),
        Err(error) => error,
    }
}

#[test]
fn a_restart_keeps_the_maps_and_puts_new_programs_into_the_same_links() {
    let lab = Lab::new();
    ip("addr add 10.244.1.1/32 dev lo");
    let _server = TcpListener::bind("10.244.1.1:8080").expect("listen");
    let mut first = lab.start();
    let mut service = Service::new(1);
    service.set(&mut first.maps, &[here("10.244.1.1:8080")]);
    service.at(&mut first.maps, "10.96.0.10:80", PROTOCOL_TCP);
    let dump = first.maps.dump().expect("dump");
    let (maps, programs) = (map_ids(&lab.config), link_programs(&lab.config));
    assert_eq!(programs.len(), 9, "{programs:?}");
    drop(first);
    TcpStream::connect("10.96.0.10:80").expect("a connect without an agent");
    let second = lab.start();
    assert_eq!(map_ids(&lab.config), maps, "the maps were taken over");
    let replaced = link_programs(&lab.config);
    assert!(replaced.keys().eq(programs.keys()));
    assert!(replaced.iter().all(|(link, id)| programs[link] != *id), "{programs:?} {replaced:?}");
    assert_eq!(second.maps.dump().expect("dump"), dump);
    TcpStream::connect("10.96.0.10:80").expect("a connect after the restart");
}

#[test]
fn connects_go_on_through_a_storm_of_restarts() {
    let lab = Lab::new();
    ip("addr add 10.244.1.1/32 dev lo");
    let mut dataplane = lab.start();
    let mut service = Service::new(1);
    service.set(&mut dataplane.maps, &[here("10.244.1.1:8080")]);
    service.at(&mut dataplane.maps, "10.96.0.10:53", PROTOCOL_UDP);
    let done = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let stop = done.clone();
    let load = std::thread::spawn(move || {
        let mut connects = 0_u64;
        while !stop.load(std::sync::atomic::Ordering::Relaxed) {
            let socket = UdpSocket::bind("0.0.0.0:0").expect("bind");
            // Without the hook this address has no route here.
            socket.connect("10.96.0.10:53").expect("a connect during a restart");
            connects += 1;
        }
        connects
    });
    for _ in 0..10 {
        drop(lab.start());
    }
    done.store(true, std::sync::atomic::Ordering::Relaxed);
    let connects = load.join().expect("no connect fails");
    assert!(connects > 1000, "{connects} connects");
}

#[test]
fn a_pin_that_is_another_map_is_named_and_left_alone() {
    let lab = Lab::new();
    drop(lab.start());
    let pin = lab.config.pins().join("FRONTENDS");
    fs::remove_file(&pin).expect("remove a pin");
    let other = sys::open_pin(&lab.config.pins().join("VIPS")).expect("another map");
    sys::pin(other.as_fd(), &pin).expect("pin it under the wrong name");
    let error = error_of(Dataplane::start(&lab.config));
    let LoadError::Map(OpenError::Mismatch { path, difference }) = &error else {
        panic!("{}", chain(&error))
    };
    assert_eq!(path, &pin);
    assert_eq!(difference, "key size is 16, not 20, value size is 4, not 8");
    assert!(chain(&error).contains("bowline-proxy cleanup"), "{}", chain(&error));
    assert!(pin.exists());
}

#[test]
fn the_wrong_cgroup_root_is_found_by_the_self_test() {
    let lab = Lab::new();
    let root = lab.config.cgroup_root.clone().expect("the lab's cgroup");
    let wrong = root.join("client");
    let config = Config { cgroup_root: Some(wrong.clone()), ..lab.config.clone() };
    let error = error_of(Dataplane::start(&config));
    let LoadError::WrongCgroupRoot { root, .. } = &error else { panic!("{}", chain(&error)) };
    assert_eq!(root, &wrong);
    drop(lab.start()); // the right one takes the links over from the wrong one
}

#[test]
fn a_directory_that_is_no_bpf_file_system_is_named_and_left_clean() {
    let lab = Lab::new();
    let directory = std::env::temp_dir().join(format!("bowline-test-{}", std::process::id()));
    let config = Config { directory: directory.clone(), ..lab.config.clone() };
    let error = error_of(Dataplane::start(&config));
    assert!(matches!(&error, LoadError::NoBpfFs { path } if *path == directory), "{error}");
    assert!(!directory.exists(), "nothing is left on an ordinary file system");
}

#[test]
fn unload_leaves_nothing_and_may_be_repeated() {
    let lab = Lab::new();
    ip("addr add 10.244.1.1/32 dev lo");
    ip("link add up0 type veth peer name out0");
    let _server = TcpListener::bind("10.244.1.1:80").expect("listen");
    let mut dataplane = lab.start();
    dataplane.attach_uplink("up0").expect("attach");
    let mut service = Service::new(1);
    service.set(&mut dataplane.maps, &[]);
    service.at(&mut dataplane.maps, "10.244.1.1:80", PROTOCOL_TCP);
    TcpStream::connect("10.244.1.1:80").expect_err("refused: no endpoint");
    drop(dataplane);
    for _ in 0..2 {
        loader::unload(&lab.config.directory).expect("unload");
        assert!(!lab.config.directory.exists());
        TcpStream::connect("10.244.1.1:80").expect("nothing in the way any more");
    }
    assert!(matches!(BpfMaps::open(&lab.config.pins()), Err(OpenError::Missing { .. })));
    let filters = std::process::Command::new("tc")
        .args(["filter", "show", "dev", "up0", "ingress"])
        .output()
        .expect("tc");
    assert!(filters.stdout.is_empty(), "{}", String::from_utf8_lossy(&filters.stdout));
    drop(lab.start());
}

#[test]
fn an_interface_that_comes_again_is_attached_again() {
    let lab = Lab::new();
    let dataplane = lab.start();
    for _ in 0..2 {
        ip("link add up0 type veth peer name out0");
        dataplane.attach_uplink("up0").expect("attach");
        dataplane.attach_uplink("up0").expect("attach once more");
        ip("link del up0");
    }
    let error = dataplane.attach_uplink("up0").expect_err("no such interface");
    assert!(chain(&error).contains("up0"), "{}", chain(&error));
}

#[test]
fn usage_tells_entries_capacity_and_bytes_of_every_map() {
    let lab = Lab::new();
    let mut maps = lab.start().maps;
    let mut service = Service::new(1);
    service.set(&mut maps, &[here("10.244.1.1:8080"), here("10.244.1.2:8080")]);
    service.at(&mut maps, "10.96.0.10:80", PROTOCOL_TCP);
    let usage = maps.usage().expect("usage");
    assert_eq!(usage.len(), layout::ALL.len());
    let entries = |name: &str| usage.iter().find(|u| u.name == name).and_then(|u| u.entries);
    assert_eq!(entries("FRONTENDS"), Some(1));
    assert_eq!(entries("BACKENDS"), Some(2));
    assert_eq!(entries("SERVICES"), Some(1));
    let total: u64 = usage.iter().map(|u| u.bytes).sum();
    assert!((1 << 20..64 << 20).contains(&total), "{total} bytes: {usage:#?}");
    // An empty trie takes nothing, what sockets store is not counted here, and older kernels do not
    // count ring buffers.
    let measured = ["hash", "lru_hash", "array", "percpu_array"];
    let empty = |u: &&Usage| u.bytes == 0 && measured.contains(&u.kind);
    assert_eq!(usage.iter().find(empty), None);
    assert!(Path::new("/sys/fs/bpf/bowline").exists());
}
