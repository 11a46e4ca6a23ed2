# make builds the C library and make install installs it; see `make help`. cargo alone builds the
# Rust crate, an archive and an unversioned shared object; here cc makes of it what C programs
# expect.

PREFIX     ?= /usr/local
LIBDIR     ?= $(PREFIX)/lib
INCLUDEDIR ?= $(PREFIX)/include
MANDIR     ?= $(PREFIX)/share/man
DATADIR    ?= $(PREFIX)/share
DESTDIR    ?=

CARGO   ?= cargo
INSTALL ?= install

# Those that belong to the compiler, so that CC alone says for which processor; make has built-in
# names for two of them.
ifneq ($(filter default undefined,$(origin LD)),)
LD       = $(shell $(CC) -print-prog-name=ld 2>/dev/null)
endif
ifneq ($(filter default undefined,$(origin AR)),)
AR       = $(shell $(CC) -print-prog-name=ar 2>/dev/null)
endif
OBJCOPY ?= $(shell $(CC) -print-prog-name=objcopy 2>/dev/null)
NM      ?= $(shell $(CC) -print-prog-name=nm 2>/dev/null)

BUILD  := $(or $(CARGO_TARGET_DIR),target)
ifneq ($(words $(BUILD)),1)
$(error CARGO_TARGET_DIR: make cannot build in a directory with a space in its name: $(BUILD))
endif
# A target directory of its own: the flags below would make cargo rebuild what `cargo build` has built.
SHIP   := $(BUILD)/ship
OUT    := $(BUILD)/lib
RUSTLIB := $(SHIP)/$(if $(CARGO_BUILD_TARGET),$(CARGO_BUILD_TARGET)/)release/libpmemset.a

# What programs ask the loader for, and the file behind it: the number of the binary interface,
# which has been this one in every release, of the original too. The version is in Cargo.toml.
SONAME := libpmemset.so.1
REAL   := $(SONAME).0.0
NAMES  := $(shell sed -n 's/^\t\t\(pmemset_[a-z0-9_]*\);$$/\1/p' libpmemset.map)
KEEP   := $(NAMES:%=-u %)
comma  := ,
# Absent where the compiler has another, which it then links by itself.
UNWINDER = $(wildcard $(shell $(CC) -print-file-name=libgcc_eh.a 2>/dev/null))
# V=1 shows the commands.
Q      := $(if $(V),,@)

.DELETE_ON_ERROR:
.PHONY: all shared static install uninstall check check-guest soak bench demo header clean help FORCE

all: shared static

shared: $(OUT)/$(REAL)
static: $(OUT)/libpmemset.a

help:
	@echo 'make            build $(OUT)/$(REAL) and $(OUT)/libpmemset.a'
	@echo 'make install    install libraries, header, pkg-config file, man pages and suppressions for race detectors, once'
	@echo '                they are built: PREFIX=$(PREFIX) LIBDIR INCLUDEDIR MANDIR DATADIR DESTDIR'
	@echo 'make uninstall  remove what install put there (same variables)'
	@echo 'make demo       build and run a short program over real files'
	@echo 'make check      every test; the last line counts them'
	@echo 'make check-guest  tests in a virtual machine: persistent memory, crashes, power loss, failing disks'
	@echo 'make soak         the tests that grow with time, SOAK=10 minutes or so each'
	@echo 'make bench      time it against the bare machine, and against PEER=path/to/another/libpmemset.so.1; see'
	@echo '                docs/performance.md: BENCH_DIR ROUNDS BENCH="ops parts drains"'
	@echo 'make header     make include/libpmemset.h anew from the Rust sources'
	@echo 'make clean      remove everything built'

# What has been built is built anew with other flags, here and, by itself, in cargo. build.rs hands
# CFLAGS to the compiler; a compiler that does not take them says so here, in one line.
$(OUT)/flags: export FLAGS = $(CC) $(CPPFLAGS) $(CFLAGS) $(LDFLAGS) $(LD) $(RUSTLIB)
$(OUT)/flags: FORCE
	@mkdir -p $(OUT)
	@echo 'int empty;' | $(CC) $(CPPFLAGS) $(CFLAGS) -x c -S -o - - >/dev/null
	@printf '%s\n' "$$FLAGS" | cmp -s - $@ || printf '%s\n' "$$FLAGS" >$@

$(OUT)/names: libpmemset.map
	@mkdir -p $(OUT)
	@printf '%s\n' $(NAMES) | LC_ALL=C sort >$@

# cargo knows what is stale. Paths of this machine stay out of the library. The standard library's
# thread-local variables would ask the loader for __tls_get_addr; by descriptor they do without,
# which is how it is on every processor but x86-64. Since thread.c has put the library into the
# memory that the loader sets aside for each thread, the two give the same.
ifneq ($(CPPFLAGS),)
$(RUSTLIB): export override CFLAGS := $(CPPFLAGS) $(CFLAGS)
endif
$(RUSTLIB): FORCE | $(OUT)/flags
	@rustc=$${RUSTC:-rustc}; set --; \
	case "$${CARGO_BUILD_TARGET:-$$($$rustc -vV | sed -n 's/^host: //p')}" in \
	x86_64*) ! $$rustc -C llvm-args=-enable-tlsdesc --print cfg >/dev/null 2>&1 || set -- -C llvm-args=-enable-tlsdesc ;; \
	esac; \
	CARGO_TARGET_DIR='$(SHIP)' $(CARGO) rustc --quiet --locked --release --lib --crate-type staticlib -- \
		--remap-path-prefix="$$($$rustc --print sysroot)=rust" --remap-path-prefix="$${CARGO_HOME:-$$HOME/.cargo}=cargo" \
		--remap-path-prefix='$(CURDIR)=libpmemset' "$$@"
	@[ -e $@ ] || { echo '$@ is not there: a target in the configuration of cargo is to be in CARGO_BUILD_TARGET' >&2; exit 1; }

# rustc gives the linker a version script of its own, so it is cc that links the shared object.
# Thread-local state outlives dlclose, hence nodelete. The unwinder prints a panic's trace and
# nothing else: no function with a table for it ever calls one of the program's, so that it may be a
# copy of our own and libgcc_s need not be there. LDFLAGS come first, so that the last word on
# what makes it this library is said here; what they say of programs is no word on it.
NOT_HERE = $(filter -static -static-pie -r -Wl$(comma)-static -Wl$(comma)-Bstatic -Wl$(comma)-pie -Wl$(comma)-r,$(LDFLAGS))
$(OUT)/$(REAL): $(RUSTLIB) $(OUT)/flags $(OUT)/names libpmemset.map Makefile
	$(if $(NOT_HERE),$(error LDFLAGS: no shared object can be linked with $(NOT_HERE); make static builds libpmemset.a alone))
	@echo 'linking $@'
	$(Q)$(CC) -shared $(filter-out -pie -no-pie,$(LDFLAGS)) -fPIC -fno-lto -static-libgcc -o $@ \
		$(addprefix -Wl$(comma)-u$(comma),$(NAMES)) $(RUSTLIB) \
		-Wl,-soname,$(SONAME) -Wl,--version-script=libpmemset.map -Wl,--no-undefined-version \
		-Wl,-z,defs,-z,relro,-z,now,-z,nodelete -Wl,--gc-sections,--as-needed,--strip-debug -lpthread -ldl -lc
	@$(NM) -D --defined-only $@ | sed -n 's/.* T \(.*\)@@LIBPMEMSET_1\.0$$/\1/p' | LC_ALL=C sort | cmp -s - $(OUT)/names || \
		{ echo '$@ would not have the interface: see CC and LDFLAGS' >&2; exit 1; }
	@ln -sf $(REAL) $(OUT)/$(SONAME)
	@ln -sf $(SONAME) $(OUT)/libpmemset.so

# One object with the interface as its only global names: Rust's own must not meet those of another
# Rust library in the same program. For the same reason it has no groups: of two with one name the
# linker drops the second, also where the name that is left belongs to our object alone. The
# unwinder is in it as it is in the shared object.
$(OUT)/libpmemset.a: $(RUSTLIB) $(OUT)/flags $(OUT)/names Makefile
	@echo 'packing $@'
	$(Q)$(LD) -r --gc-sections --force-group-allocation $(KEEP) -o $(OUT)/pmemset.o $(RUSTLIB) $(UNWINDER)
	$(Q)$(OBJCOPY) --strip-debug -R .llvmbc -R .llvmcmd --keep-global-symbols=$(OUT)/names $(OUT)/pmemset.o
	@$(NM) -g --defined-only $(OUT)/pmemset.o | sed 's/.* //' | LC_ALL=C sort | cmp -s - $(OUT)/names || \
		{ echo '$@ would not have the interface: see CC and LD' >&2; exit 1; }
	@rm -f $@
	$(Q)$(AR) rcsD $@ $(OUT)/pmemset.o
	@rm -f $(OUT)/pmemset.o

# install builds nothing, since root may have no cargo; but it comes after what is built by the same
# command.
install uninstall: export OUT := $(OUT)
install uninstall: export REAL := $(REAL)
install uninstall: export SONAME := $(SONAME)
install uninstall: export PREFIX := $(PREFIX)
install uninstall: export LIBDIR := $(LIBDIR)
install uninstall: export INCLUDEDIR := $(INCLUDEDIR)
install uninstall: export MANDIR := $(MANDIR)
install uninstall: export DATADIR := $(DATADIR)
install uninstall: export DESTDIR := $(DESTDIR)
install uninstall: export INSTALL := $(INSTALL)
install: | $(filter all shared static,$(MAKECMDGOALS))
	@tools/install.sh install

uninstall:
	@tools/install.sh uninstall

# Files that exist everywhere, as copies, since the demo edits what it is given.
demo: shared
	@rm -rf $(BUILD)/demo && mkdir -p $(BUILD)/demo/files
	$(CC) -std=c99 -O2 -Wall -Wextra $(CPPFLAGS) $(CFLAGS) -Iinclude -o $(BUILD)/demo/demo examples/demo.c \
		-L$(OUT) -lpmemset -Wl,-rpath,'$$ORIGIN/../lib'
	@cp Makefile README.md /etc/passwd /etc/services $(BUILD)/demo/files/ 2>/dev/null; chmod u+w $(BUILD)/demo/files/*
	@$(BUILD)/demo/demo $(BUILD)/demo/files/*

check:
	@tools/check.sh

check-guest:
	@tests/guest/check.sh

soak:
	@tools/soak.sh

bench: shared
	@BUILD='$(BUILD)' CC='$(CC)' PEER='$(PEER)' ROUNDS='$(ROUNDS)' BENCH='$(BENCH)' BENCH_DIR='$(BENCH_DIR)' benches/run.sh

header:
	tools/header.sh

clean:
	rm -rf $(BUILD)/lib $(BUILD)/ship $(BUILD)/demo $(BUILD)/check $(BUILD)/bench
	$(CARGO) clean

FORCE:
