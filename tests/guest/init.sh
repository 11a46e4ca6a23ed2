#!/bin/sh
# The guest's first process: runs /t/case with this file's functions. ttyS0 is what run.sh prints, ttyS1 the kernel's log.
export PATH=/bin HOME=/tmp LD_LIBRARY_PATH=/t:/lib64
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmpfs /tmp
stty -F /dev/ttyS0 raw -echo
exec </dev/null >/dev/ttyS0 2>&1

ok() { echo "ok $case: $*"; }
bad() { echo "FAIL $case: $*"; }
finish() { sync; echo "END $1"; poweroff -f; sleep 60; }
die() { bad "$*"; dmesg | tail -5; finish 1; }
must() { "$@" >/tmp/must 2>&1 || die "$* ($(tail -3 /tmp/must | tr '\n' ' '))"; }
# check NAME COMMAND...: the command says what is wrong and fails, or is quiet.
check() {
	what=$1
	shift
	if "$@" >/tmp/check 2>&1; then
		ok "$what"
	else
		bad "$what (exit status $?)"
		cat /tmp/check
	fi
}
# tests COMMAND...: a program that says itself how its tests went; dying is one more failure.
tests() {
	"$@"
	status=$?
	[ $status -le 1 ] || bad "$1: exit status $status"
}
appears() {
	n=0
	until [ -e "$1" ]; do
		n=$((n + 1))
		[ $n -lt 1000 ] || die "$1 did not appear"
		usleep 20000
	done
}
# nvdimm MODE: the next NVDIMM in mode fsdax or devdax; its device is $dev. Regions are numbered in no order that counts.
region=0
nvdimm() {
	modprobe -a nfit nd_pmem device_dax dax_pmem
	appears /sys/bus/nd/devices/region$region
	appears /sys/bus/nd/devices/namespace$region.0
	dev=/dev/pmem$region
	[ "$1" = fsdax ] || dev=/dev/dax$region.0
	# On a later boot of the same files all is there.
	[ -n "$again" ] || must ndctl create-namespace -f -e namespace$region.0 -m $1
	appears $dev
	region=$((region + 1))
}

. /t/env
. /t/case
finish 0
