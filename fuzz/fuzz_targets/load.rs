//! Any bytes as an object: an error or programs, never a panic that gets out, an overflow of the stack
//! or memory beyond measure. The kernel is not asked, so no root is needed: every system call of the
//! library is answered here as if it had gone well.
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
    // Stands for whatever the kernel would have made.
    static NOTHING: OnceLock<File> = OnceLock::new();
    let kernel = KERNEL.get_or_init(|| KernelBtf::from_sys_fs().ok());
    let nothing = NOTHING.get_or_init(|| File::open("/dev/null").expect("there is a /dev/null"));
    let descriptor = i64::from(nothing.as_raw_fd());
    let answer = move |call| match call {
        // Nothing is pinned yet.
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
