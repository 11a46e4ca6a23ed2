//! Compiles what cannot be written in stable Rust (a C variadic, a model of thread-local storage, weak symbols) and names the plain cdylib.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, exit};

/// What flags for programs would break in these files: rustc and `ld -r` read machine code only,
/// the shared object takes no code for programs, and a hidden function is not exported by it.
/// CFLAGS come after all that `cc` is told, hence apart.
const LAST: [&str; 3] = ["-fno-lto", "-fPIC", "-fvisibility=default"];

fn main() {
    println!("cargo:rerun-if-changed=build.rs");

    let mut c = cc::Build::new();
    c.std("gnu99").warnings(true).extra_warnings(true);
    let compiler = c.get_compiler();
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default());
    for source in ["src/capi/perror.c", "src/thread.c", "src/order.c"] {
        println!("cargo:rerun-if-changed={source}");
        let object = out.join(
            Path::new(source)
                .with_extension("o")
                .file_name()
                .unwrap_or_default(),
        );
        let mut command = compiler.to_command();
        command
            .args(LAST)
            .arg("-c")
            .arg(source)
            .arg("-o")
            .arg(&object);
        let done = command
            .output()
            .unwrap_or_else(|e| fail(&format!("{}: {e}", compiler.path().display())));
        let said = String::from_utf8_lossy(&done.stderr);
        if !done.status.success() {
            let line = said
                .lines()
                .find(|line| line.contains("error:"))
                .or(said.lines().next());
            fail(&format!(
                "{source}: {}",
                line.unwrap_or("the compiler failed and said nothing")
            ));
        }
        for line in said.lines() {
            println!("cargo:warning={line}");
        }
        c.object(object);
    }

    c.link_lib_modifier("+whole-archive");
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

fn fail(why: &str) -> ! {
    println!("cargo::error={why}");
    exit(1);
}

/// The `95` of `rustc 1.95.0`.
fn rustc_minor() -> Option<u32> {
    let rustc = env::var_os("RUSTC")?;
    let out = Command::new(rustc).arg("--version").output().ok()?;
    let text = String::from_utf8(out.stdout).ok()?;
    text.split('.').nth(1)?.parse().ok()
}
