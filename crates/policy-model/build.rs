//! Compiles `bpf/shim/model.c`, which includes the select program, with the host's C compiler.

fn main() {
    println!("cargo::rerun-if-changed=../../bpf");
    cc::Build::new()
        .file("../../bpf/shim/model.c")
        .include("../../bpf/shim")
        .include("../../bpf")
        .std("gnu11")
        .opt_level(2)
        // The shim writes numbers where libbpf's map declarations have pointers.
        .flag("-fno-strict-aliasing")
        .flag("-Wno-unknown-pragmas")
        .flag("-Wno-unused-parameter")
        .flag("-Wno-sign-compare")
        .warnings_into_errors(true)
        .compile("policy_model");
}
