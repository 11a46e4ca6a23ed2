//! Compiles what cannot be written in stable Rust (a C variadic, a model of thread-local storage, weak symbols) and names the plain cdylib.

use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=src/capi/perror.c");
    println!("cargo:rerun-if-changed=src/thread.c");
    println!("cargo:rerun-if-changed=src/order.c");

    let mut c = cc::Build::new();
    c.file("src/capi/perror.c")
        .file("src/thread.c")
        .file("src/order.c")
        .std("gnu99")
        .warnings(true)
        .extra_warnings(true)
        .link_lib_modifier("+whole-archive");
    if rustc_minor().is_some_and(|minor| minor >= 95) {
        // Without it rustc hides the C function in the cdylib. `make` does not depend on it: there
        // cc links the shared object from the static library.
        c.link_lib_modifier("+export-symbols");
    }
    c.compile("pmemset_perror");

    // Thread-local state must outlive dlclose, so the library is never unloaded.
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libpmemset.so.1");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
}

/// The `95` of `rustc 1.95.0`.
fn rustc_minor() -> Option<u32> {
    let rustc = std::env::var_os("RUSTC")?;
    let out = Command::new(rustc).arg("--version").output().ok()?;
    let text = String::from_utf8(out.stdout).ok()?;
    text.split('.').nth(1)?.parse().ok()
}
