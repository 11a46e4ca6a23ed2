#!/bin/bash
# The documents of this project are true as far as a script can tell: what they name exists, their links lead somewhere, and
# lists that have to be complete are. Builds nothing. Prints one line for each test, "ok NAME" or "FAIL NAME"; tools/check.sh
# counts them.
#
# In every document:
#     links that are relative lead to a file, and to a heading of it
#     paths below src, docs, tests, tests-c, tools, man, benches, examples, fuzz and include exist;
#     * stands for anything, and NAME for what is to be made
#     TYPE::NAME and MODULE::NAME are what the Rust sources define
#     names of the C interface are in the header
# In those that say how the sources are made ($strict), what is in backquotes, too:
#     a name alone is defined in the Rust sources, in C, in a script, or is a variable that one of these reads
#     `make ...` names targets, CHECK=... steps of tools/check.sh
# What is not of this project (system calls, other projects' words) is not in backquotes there.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 1
export LC_ALL=C
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
status=0
documents="README.md CONTRIBUTING.md CHANGELOG.md SECURITY.md docs/*.md"
strict=" CONTRIBUTING.md CHANGELOG.md SECURITY.md docs/architecture.md docs/adding.md "

ok() { echo "ok docs: $1"; }
bad() { echo "FAIL docs: $1"; sed 's/^/    /' "$work/log" | head -20; status=1; }
does() { local name=$1; shift; if "$@" >"$work/log" 2>&1; then ok "$name"; else bad "$name"; fi; }
doesnt() { local name=$1; shift; if "$@" >"$work/log" 2>&1; then bad "$name"; else ok "$name"; fi; }

# --- what exists: lines "def NAME" and "in OWNER NAME"

# Rust, without comments: items, fields and variants; each belongs to the type or trait around it, and to the module that the
# file is, or is in.
find src benches fuzz tests build.rs -name '*.rs' -not -path '*/target/*' | sort | xargs awk '
	function found(name,   i) {
		print "def", name
		for (i = 1; i <= modules; i++) print "in", module[i], name
		for (i = 1; i <= owners; i++) print "in", owner[i], name
	}
	FNR == 1 {
		owners = 0
		modules = split(FILENAME, module, "/")
		sub(/\.rs$/, "", module[modules])
		for (i = 2; i <= modules; i++) print "def", module[i]
	}
	{ sub(/\/\/.*/, "") }
	/^}/ { owners = 0 }
	/^(unsafe +)?impl/ {
		head = $0
		sub(/^(unsafe +)?impl *(<[^<>]*(<[^<>]*>[^<>]*)*> *)?/, "", head)
		sub(/ *(\{|where).*/, "", head)
		owners = split(head, owner, " for ")
		for (i = 1; i <= owners; i++) { sub(/[<(].*/, "", owner[i]); gsub(/.*::|[^A-Za-z0-9_]/, "", owner[i]) }
	}
	{
		line = $0
		while (match(line, /(^|[^A-Za-z0-9_])(fn|struct|enum|trait|type|union|mod|static|const|macro_rules!) +(mut +)?[A-Za-z_][A-Za-z0-9_]*/)) {
			n = split(substr(line, RSTART, RLENGTH), word, " ")
			found(word[n])
			line = substr(line, RSTART + RLENGTH)
			if ($0 ~ /^[a-z]/ && word[n - 1] ~ /(struct|enum|trait|union)$/ && $0 ~ /\{$/) { owner[1] = word[n]; owners = 1 }
		}
	}
	match($0, /^ +(pub(\([a-z]+\))? +)?[A-Za-z_][A-Za-z0-9_]* *:/) || match($0, /^    [A-Z][A-Za-z0-9]*( =|[,({]|$| \{)/) {
		name = substr($0, RSTART, RLENGTH)
		gsub(/pub(\([a-z]+\))? |[^A-Za-z0-9_]/, "", name)
		found(name)
	}' >"$work/known"
# Functions of scripts, functions and macros of C.
find tools tests tests-c fuzz .ci -name '*.sh' -exec sed -nE 's/^([A-Za-z_-]+)\(\).*/def \1/p' {} + >>"$work/known"
find tests tests-c benches src include \( -name '*.[ch]' -o -name '*.cc' \) -exec sed -nE \
	-e 's/^#[[:space:]]*define +([A-Za-z_][A-Za-z0-9_]*).*/def \1/p' \
	-e 's/^(struct|enum|union) +([a-z_0-9]+).*/def \2/p' \
	-e 's/^[A-Za-z_].*[ *]([A-Za-z_][A-Za-z0-9_]*)\(.*/def \1/p' -e 's/^([A-Za-z_][A-Za-z0-9_]*)\(.*/def \1/p' {} + >>"$work/known"
# Variables that the sources, the scripts or the Makefile read.
find src tools tests tests-c benches fuzz Makefile -type f -not -path '*/target/*' -not -path tests-c/docs/run.sh -exec grep -ohE '\b[A-Z][A-Z0-9_]+\b' {} + |
	sort -u | sed 's/.*/def &/' >>"$work/known"
sort -u -o "$work/known" "$work/known"
grep -ohE '\b(pmemset|PMEMSET|PMEM2)_[A-Za-z0-9_]+' include/libpmemset.h | sort -u >"$work/interface"
sed -n 's/^\.PHONY: //p' Makefile | tr ' ' '\n' >"$work/targets"
sed -n 's/^step_\([a-z]*\)().*/\1/p' tools/check.sh >"$work/steps"
# All that a word alone may be.
sed -n 's/^def //p' "$work/known" | sort -u - "$work/interface" "$work/targets" "$work/steps" >"$work/names"

# --- what a document says

# anchors FILE: the headings as links name them.
anchors() {
	sed -nE 's/^#+ +//p' "$1" | tr 'A-Z ' 'a-z-' | sed -E 's/[^a-z0-9_-]//g'
}

links() { # links FILE
	local file=$1 link path missing=0
	while IFS= read -r link; do
		case $link in *://*|mailto:*) continue ;; esac
		path=${link%%#*}
		path=$(dirname "$file")/$path
		[ -n "${link%%#*}" ] || path=$file
		if [ ! -e "$path" ]; then
			echo "$file: the link $link leads nowhere"; missing=1
		elif [[ $link == *#* ]] && ! anchors "$path" | grep -qxF -- "${link#*#}"; then
			echo "$file: $path has no heading #${link#*#}"; missing=1
		fi
	done < <(sed '/^```/,/^```/d' "$file" | grep -oE '\]\([^) ]+\)' | sed 's/^](//; s/)$//')
	return $missing
}

paths() { # paths FILE
	local path missing=0
	while IFS= read -r path; do
		while [[ $path == *[.,:] ]]; do path=${path%?}; done
		compgen -G "$path" >/dev/null || { echo "$1: there is no $path"; missing=1; }
	done < <(grep -oE '(^|[^A-Za-z0-9_./-])(src|docs|tests|tests-c|tools|man|benches|examples|fuzz|include)/[A-Za-z0-9_./*-]*' "$1" |
		sed 's/^[^a-z]//' | grep -v '\bNAME\b' | sort -u)
	return $missing
}

# The names with colons, with what is in front of the last pair.
qualified() { # qualified FILE
	{ grep -oE '\b[A-Za-z_][A-Za-z0-9_]*(::[A-Za-z_][A-Za-z0-9_]*)+' "$1" || true; } |
		sed -E '/^(std|core|libc|loom)::/d; s/.*\b([A-Za-z0-9_]+)::([A-Za-z0-9_]+)$/in \1 \2/; s/^in crate /def /' | sort -u |
		comm -23 - "$work/known" | sed -E "s,^in ([^ ]*) (.*),$1: there is no \\1::\\2,; s,^def,$1: there is no," | tee "$work/none"
	[ ! -s "$work/none" ]
}

# What is in backquotes, but for blocks of code.
spans() { sed '/^```/,/^```/d' "$1" | tr '\n' ' ' | grep -oE '`[^`]+`' | tr -d '`' | sort -u; }
# Lines of blocks, indented or fenced.
blocks() { awk '/^```/ { on = !on; next } on || /^    / { sub(/^ +/, ""); print }' "$1"; }

names() { # names FILE
	spans "$1" | sed -E 's/[(<!].*//' | grep -xE '[A-Za-z_][A-Za-z0-9_]*' | sort -u | comm -23 - "$work/names" |
		sed "s,^,$1: there is no ," | tee "$work/none"
	[ ! -s "$work/none" ]
}

interface() { # interface FILE
	grep -oE '\b(pmemset_[a-z0-9_]*[a-z0-9]|PMEMSET_[EF]_[A-Z0-9_]*[A-Z0-9])\b' "$1" | sort -u | comm -23 - "$work/names" |
		sed "s,^,$1: there is no ," | tee "$work/none"
	[ ! -s "$work/none" ]
}

commands() { # commands FILE
	local missing=0 line word
	while IFS= read -r line; do
		while IFS= read -r word; do
			grep -qxF -- "$word" "$work/targets" || { echo "$1: make has no target $word"; missing=1; }
		done < <(grep -oE '(^|&& |sudo |[A-Z]+=[^ ]* )make( +[^&#;]*)?' <<<"$line" | sed 's/.*make//' | tr ' ' '\n' |
			grep -E '^[a-z][a-z-]*$')
		while IFS= read -r word; do
			grep -qxF -- "$word" "$work/steps" || { echo "$1: tools/check.sh has no step $word"; missing=1; }
		done < <(grep -oE "CHECK=(\"[^\"]*\"|'[^']*'|[^ ]*)" <<<"$line" | sed 's/^CHECK=//' | tr -d "\"'" | tr ' ' '\n' | grep -E '^[a-z]')
	done < <({ spans "$1"; blocks "$1"; } | grep -E 'make|CHECK=')
	return $missing
}

true_of() { # true_of FILE: everything that is asked of it
	local rc=0
	[ -f "$1" ] || { echo "there is no $1"; return 1; }
	links "$1" || rc=1
	paths "$1" || rc=1
	qualified "$1" || rc=1
	interface "$1" || rc=1
	commands "$1" || rc=1
	if [[ $strict == *" $1 "* ]]; then names "$1" || rc=1; fi
	return $rc
}

for document in $documents; do
	does "$document names what exists" true_of "$document"
done

# --- the test itself can fail: each of these in a document that passes without

planted() { # planted WHAT LINE: a document with one line more
	cp docs/adding.md "$work/adding.md"
	printf '\n%s\n' "$2" >>"$work/adding.md"
	(
		strict=" $work/adding.md "
		# Links are relative to where the document is.
		links() { :; }
		true_of "$work/adding.md" || exit 1
		echo "passed with: $2"
	)
}
while IFS='|' read -r what line; do
	doesnt "notices $what" planted "$what" "$line"
done <<-'END'
	a file that is not there|See src/set/nowhere.rs for that.
	a pattern that nothing fits|See tests-c/nowhere/*.c for that.
	a method that its type does not have|The arena is asked by `Arena::drain`.
	a function that its module does not have|It ends in arena::drain somewhere.
	a type that is not there|A `Nowhere::drain` is made.
	a name alone|Then `no_such_function` is called.
	a function of C that is not exported|Programs call pmemset_nowhere() then.
	an error code that is not there|It is PMEMSET_E_NOWHERE then.
	a target that make does not have|Say `make nowhere` for that.
	a step that is not there|Say `CHECK="rust nowhere" make check` for that.
END
dead() { printf '[%s](%s)\n' a "$1" >"$work/dead.md"; links "$work/dead.md"; }
doesnt "notices a link to a file that is not there" dead nowhere.md
doesnt "notices a link to a heading that is not there" dead '#nowhere'

# --- lists that have to be complete

complete() { # complete WHERE: every word of the input is there
	local word missing=0
	while IFS= read -r word; do
		grep -qE -- "(^|[^A-Za-z0-9_])$word([^A-Za-z0-9_]|\$)" "$1" || { echo "not in $1: $word"; missing=1; }
	done
	return $missing
}
functions() { sed -n 's/^\t\t\(pmemset_[a-z0-9_]*\);$/\1/p' libpmemset.map; }
codes() { sed -n 's/^pub const \(PMEMSET_E_[A-Z0-9_]*\): i32.*/\1/p' src/codes.rs; }
events() { grep -oE '\bPMEMSET_EVENT_[A-Z_0-9]+ = [0-9]+' include/libpmemset.h | sed 's/ =.*//' | sort -u; }
numbers() { # each code with its number as pages write it
	sed -nE 's/^pub const (PMEMSET_E_[A-Z0-9_]*): i32 = -([0-9]*);/\1 \2/p' src/codes.rs | while read -r code number; do
		grep -qE "$code\b.*\b$number\b" man/pmemset_errormsg.3 || { echo "$code has not the number $number"; return 1; }
	done
}
everything() { [ "$("$1" | wc -l)" -gt 10 ] && "$1" | complete "$2"; }
does "every function is in tests-c/header/contract.h" everything functions tests-c/header/contract.h
does "every error code is in tests-c/header/contract.h" everything codes tests-c/header/contract.h
does "every event is in tests-c/header/contract.h" everything events tests-c/header/contract.h
does "every error code is in pmemset_errormsg(3)" everything codes man/pmemset_errormsg.3
does "every error code has its number there" numbers
does "every event is in pmemset_config_set_event_callback(3)" everything events man/pmemset_config_set_event_callback.3
# One with 112 at its end is another, with the names of that release.
programs() { basename -s .c -a tests-c/contract/*.c | sed "s/_112$//"; }
does "every contract test is in the README of its directory" everything programs tests-c/contract/README
cases() { basename -s .sh -a tests/guest/cases/*.sh; }
does "every guest case is in the README of its directory" eval 'cases | complete tests/guest/README'
# A case that is not in the list at the end of check.sh is never run by the gate.
booted() {
	# The list may go over several lines.
	sed -n '/cases=([a-z]/,/)$/p' tests/guest/check.sh | sed 's/.*cases=(//; s/)$//' | tr -s '\t\n ' '\n' | grep '[a-z]'
}
listed() {
	local name
	booted | sed 's/-.*//' | sort -u >"$work/listed"
	for name in $(booted); do
		case $name in power-*) continue ;; esac
		grep -q "^case_$name()" tests/guest/check.sh || { echo "there is no function case_$name"; return 1; }
	done
	cases | complete "$work/listed"
}
does "every guest case is one that tests/guest/check.sh boots" listed
benches() { sed -n 's/.*programs=${BENCH:-\(.*\)}/\1/p' benches/run.sh | tr ' ' '\n'; basename -s .c -a benches/*.c; }
does "every benchmark is in docs/performance.md" eval 'benches | sort -u | complete docs/performance.md'
doesnt "notices a word that a list does not have" eval 'echo nowhere | complete tests/guest/README'
exit $status
