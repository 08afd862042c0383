//! Loads any bytes as an object. The result must be an error or programs, never a panic, a stack
//! overflow or a huge allocation. Every system call of the library succeeds without reaching the
//! kernel, so no root is needed.
#![no_main]

use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use sk_reuseport::fault::{Call, Verdict, intercept};
use sk_reuseport::programs::Program;
use sk_reuseport::{EbpfLoader, KernelBtf};

const ENOENT: i32 = 2;

fuzz_target!(|bytes: &[u8]| {
    static KERNEL: OnceLock<Option<KernelBtf>> = OnceLock::new();
    // In place of any descriptor that the kernel would return.
    static NOTHING: OnceLock<File> = OnceLock::new();
    let kernel = KERNEL.get_or_init(|| KernelBtf::from_sys_fs().ok());
    let nothing = NOTHING.get_or_init(|| File::open("/dev/null").expect("/dev/null exists"));
    let descriptor = i64::from(nothing.as_raw_fd());
    let answer = move |call| match call {
        // Nothing is pinned.
        Call::BpfObjGet => Verdict::Fail(ENOENT),
        _ => Verdict::Answer(descriptor),
    };
    intercept(answer, || load(bytes, kernel.as_ref()));
});

fn load(bytes: &[u8], kernel: Option<&KernelBtf>) {
    let mut loader = EbpfLoader::new();
    loader.default_map_pin_directory("/nowhere");
    match kernel {
        Some(kernel) => loader.kernel_btf(kernel),
        None => loader.btf(None),
    };
    match loader.load(bytes) {
        Ok(mut ebpf) => {
            for (_, program) in ebpf.programs_mut() {
                if let Program::SkReuseport(program) = program {
                    let _ = program.load().map_err(|error| error.to_string());
                }
            }
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}
