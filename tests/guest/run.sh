#!/bin/bash
# Boots a small virtual machine (software emulation) with emulated NVDIMMs, runs a shell script in it and prints what that
# prints.
#
#     run.sh [options] SCRIPT [FILE...]
#
# The script, sourced by init.sh, finds the files in /t. Options:
#     -c NAME   what the tests are called (default: the script's name)
#     -n N      NVDIMMs of 512 MiB (default 0)
#     -p P      what their platform promises: mem-ctrl (default) or cpu
#     -d MIB    a disk, /dev/vda
#     -m MIB    memory (default 768)
#     -b DIR    keep the NVDIMMs' and the disk's contents in DIR; contents that are there are used, and $again says so
#     -k MS     once the script has printed START, end the machine without warning, so many milliseconds later
#     -e N=V    a variable for the script
#     -t S      end the machine after so many seconds (default 120)
# Exit status: 0 if the script came to its end (it reports failures by what it prints), 1 if not, 2 with -k, 77 if nothing
# can run here.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
nvdimms=0 persistence=mem-ctrl disk=0 memory=768 keep='' kill='' limit=120 name='' variables=()
while getopts c:e:n:p:d:m:b:k:t: option; do
	case $option in
	c) name=$OPTARG ;;
	e) variables+=("$OPTARG") ;;
	n) nvdimms=$OPTARG ;;
	p) persistence=$OPTARG ;;
	d) disk=$OPTARG ;;
	m) memory=$OPTARG ;;
	b) keep=$OPTARG ;;
	k) kill=$OPTARG ;;
	t) limit=$OPTARG ;;
	*) exit 1 ;;
	esac
done
shift $((OPTIND - 1))
cache=$("$here/prepare.sh") || exit $?

work=$(mktemp -d)
machine=
trap '[ -z "$machine" ] || kill -9 "$machine" 2>/dev/null; rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
mkdir -p "$work/tree/t" "${keep:=$work}"
cp "$here/init.sh" "$work/tree/init"
chmod 755 "$work/tree/init"
cp "$1" "$work/tree/t/case"
name=${name:-$(basename "$1" .sh)}
shift
[ $# = 0 ] || cp -L "$@" "$work/tree/t/"
"$here/libs.sh" "$work/tree"

devices=() again=
medium() { # medium NAME MIB: a file in $medium
	medium=$keep/$1
	if [ -e "$medium" ]; then again=1; else truncate -s "$2M" "$medium"; fi
}
for ((i = 0; i < nvdimms; i++)); do
	medium "nvdimm$i" 512
	# Far apart, as DAX wants its own sections of memory.
	devices+=(-object "memory-backend-file,id=m$i,share=on,mem-path=$medium,size=512M"
		-device "nvdimm,id=n$i,memdev=m$i,addr=$(((16 + 4 * i) << 30))")
done
if [ "$disk" -gt 0 ]; then
	medium disk "$disk"
	devices+=(-drive "file=$medium,format=raw,if=virtio,cache=writeback")
fi
printf '%s\n' "case='$name'" again=$again persistence="$persistence" "${variables[@]}" >"$work/tree/t/env"
(cd "$work/tree" && find . | "$cache/host/bin/busybox" cpio -o -H newc) >"$work/run.cpio" 2>/dev/null
cat "$cache/base.cpio" "$work/run.cpio" >"$work/initrd"

# The machine does not outlive this script, however that ends.
with_us=(setpriv --pdeathsig KILL)
command -v setpriv >/dev/null || with_us=()
: >"$work/out"
LD_LIBRARY_PATH=$cache/host/usr/lib/x86_64-linux-gnu:$cache/host/lib/x86_64-linux-gnu \
	"${with_us[@]}" "$cache/host/usr/bin/qemu-system-x86_64" -L "$cache/host/usr/share/qemu" -L "$cache/host/usr/share/seabios" \
	-nodefaults -no-user-config -display none -no-reboot -accel tcg -cpu max \
	-machine "q35,hpet=off,nvdimm=on,nvdimm-persistence=$persistence" -m "${memory}M,slots=8,maxmem=64G" \
	-kernel "$cache/vmlinux" -initrd "$work/initrd" \
	-append "console=ttyS1 loglevel=4 panic=-1 oops=panic mitigations=off nokaslr" \
	-serial "file:$work/out" -serial "file:$work/log" "${devices[@]}" </dev/null 2>"$work/err" &
machine=$!
tail --pid=$machine -n +1 -s 0.05 -f "$work/out" &
printer=$!
end=$((SECONDS + limit))
status=1
while kill -0 $machine 2>/dev/null; do
	if [ -n "$kill" ] && grep -q '^START' "$work/out"; then
		sleep "$(printf '%d.%03d' $((kill / 1000)) $((kill % 1000)))"
		kill -9 $machine 2>/dev/null && status=2
		break
	fi
	[ $SECONDS -lt $end ] || { echo "FAIL $name: not done after $limit s"; kill -9 $machine; break; }
	sleep 0.05
done
wait $machine 2>/dev/null || true
machine=
wait $printer 2>/dev/null || true
if grep -q '^END 0' "$work/out"; then
	status=0
elif [ $status = 1 ]; then
	echo "the guest did not reach its end:"
	tail -n 20 "$work/err" "$work/log"
fi
exit $status
