//! Network namespaces and bpffs of tests are private.

use std::fs;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::thread;

use test_support::process::output;
use test_support::{bpffs, netns};

fn current_netns() -> String {
    fs::read_link("/proc/thread-self/ns/net").expect("a namespace").display().to_string()
}

#[test]
fn a_namespace_has_its_own_ports_and_a_working_loopback() {
    let outside = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let addr = outside.local_addr().unwrap();
    let bytes = netns::isolated(|| {
        assert!(TcpStream::connect(addr).is_err(), "the outer listener is reachable");
        let inside = TcpListener::bind(addr).unwrap();
        TcpStream::connect(addr).unwrap();
        inside.accept().unwrap();
        7
    });
    assert_eq!(bytes, 7);
}

#[test]
fn threads_and_processes_started_inside_are_inside() {
    let outside = current_netns();
    netns::isolated(|| {
        let inside = current_netns();
        assert_ne!(inside, outside);
        assert_eq!(thread::spawn(current_netns).join().unwrap(), inside);
        let child = output(Command::new("readlink").arg("/proc/self/ns/net")).unwrap();
        assert_eq!(String::from_utf8(child.stdout).unwrap().trim(), inside);
    });
    assert_eq!(current_netns(), outside);
}

#[test]
#[should_panic(expected = "the panic of the test")]
fn a_panic_is_passed_on() {
    netns::isolated(|| panic!("the panic of the test"));
}

#[test]
fn a_private_bpffs_is_empty_and_invisible_outside() {
    let directory = Path::new(bpffs::PATH).join("reuseport-test-private");
    netns::isolated(|| {
        bpffs::private();
        let names = fs::read_dir(bpffs::PATH).unwrap().map(|entry| entry.unwrap().file_name());
        // The kernel puts these two into every bpffs (kernel/bpf/preload).
        let pinned = names.filter(|name| name != "maps.debug" && name != "progs.debug");
        assert_eq!(pinned.count(), 0);
        fs::create_dir(&directory).unwrap();
        let child = output(Command::new("stat").args(["-f", "-c", "%T"]).arg(&directory)).unwrap();
        assert_eq!(String::from_utf8(child.stdout).unwrap().trim(), "bpf_fs");
    });
    assert!(!directory.exists());
}
