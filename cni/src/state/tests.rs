//! Reservations: whole or none, reclaimed, and never another's.

use super::*;

fn boot(id: &str) -> Boot {
    Boot { id: id.into(), netns: 1 }
}

fn id(name: &str) -> AttachmentId {
    AttachmentId::new(name, "eth0").expect("valid")
}

fn ranges() -> Vec<IpNetwork> {
    vec!["10.0.0.0/29".parse().expect("CIDR"), "fd00::/126".parse().expect("CIDR")]
}

/// A network namespace that lives as long as the test.
const ALIVE: &str = "/proc/self/ns/net";

#[test]
fn a_dual_stack_reservation_is_taken_whole_or_not_at_all() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let state = StateDir::new(dir.path(), boot("a"));
    let locked = state.lock().expect("lock");
    let alive = Path::new(ALIVE);
    for name in ["one", "two"] {
        let addresses = locked.reserve(&ranges(), &id(name), alive, &mut |_| ()).expect("writable");
        assert_eq!(addresses.expect("room").len(), 2);
    }
    // The IPv6 range holds two; the IPv4 one still has room for three.
    assert_eq!(
        locked.reserve(&ranges(), &id("three"), alive, &mut |_| ()).expect("writable"),
        None
    );
    assert!(!locked.has_room(&ranges(), &mut |_| ()).expect("readable"));
    assert_eq!(names(&state.addresses()).len(), 4, "the refused pod holds nothing");
    locked.release(&id("one")).expect("release");
    assert!(locked.has_room(&ranges(), &mut |_| ()).expect("readable"));
    assert_eq!(locked.holders(), [id("two")]);
}

#[test]
fn a_reboot_empties_the_directory() {
    let dir = tempfile::tempdir().expect("temporary directory");
    for (life, expected) in [("a", 1), ("a", 2), ("b", 1)] {
        let state = StateDir::new(dir.path(), boot(life));
        let locked = state.lock().expect("lock");
        let name = format!("c{}", names(&state.addresses()).len());
        locked
            .reserve(&ranges()[..1], &id(&name), Path::new(ALIVE), &mut |_| ())
            .expect("ok")
            .expect("room");
        assert_eq!(names(&state.addresses()).len(), expected, "in life {life}");
    }
}

#[test]
fn addresses_of_vanished_namespaces_come_back_when_the_range_is_full() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let state = StateDir::new(dir.path(), boot("a"));
    let locked = state.lock().expect("lock");
    let file = dir.path().join("was-a-netns");
    fs::write(&file, "").expect("write");
    for n in 0..4 {
        locked
            .reserve(&ranges()[..1], &id(&format!("gone{n}")), &file, &mut |_| ())
            .expect("ok")
            .expect("room");
    }
    let alive = Path::new(ALIVE);
    locked.reserve(&ranges()[..1], &id("alive"), alive, &mut |_| ()).expect("ok").expect("room");
    let mut unlinked = vec![];
    let mut unlink = |id: &AttachmentId| unlinked.push(id.container_id.clone());
    let address = locked.reserve(&ranges()[..1], &id("new"), alive, &mut unlink).expect("ok");
    unlinked.sort();
    assert_eq!(unlinked, ["gone0", "gone1", "gone2", "gone3"], "their links go first");
    assert!(address.is_some(), "four of five addresses were reclaimed");
    assert_eq!(locked.holders(), [id("alive"), id("new")]);
}

#[test]
fn what_is_no_reservation_is_nobodys() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let state = StateDir::new(dir.path(), boot("a"));
    let locked = state.lock().expect("lock");
    fs::write(state.addresses().join("10.0.0.3"), b"junk").expect("write");
    symlink("only-one-word", state.addresses().join("10.0.0.4")).expect("link");
    locked.reclaim_vanished(&mut |_| ()).expect("reclaim");
    assert!(names(&state.addresses()).is_empty());
}

#[test]
fn a_second_try_gives_back_what_the_first_held() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let state = StateDir::new(dir.path(), boot("a"));
    let locked = state.lock().expect("lock");
    for _ in 0..3 {
        locked
            .reserve(&ranges(), &id("a"), Path::new(ALIVE), &mut |_| ())
            .expect("ok")
            .expect("room");
        assert_eq!(names(&state.addresses()).len(), 2);
    }
    let spaced = Path::new("/run/a path/with spaces");
    locked.reserve(&ranges(), &id("b"), spaced, &mut |_| ()).expect("ok").expect("room");
    assert_eq!(locked.holders(), [id("a"), id("b")]);
}
