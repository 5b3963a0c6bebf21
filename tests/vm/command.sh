#!/bin/sh
# command.sh ENGINES [--list]   tests the command in the machine: what it says about this kernel and about the module
#
# ENGINES: those that must work here, the one that `auto` takes first; none: the command must refuse.
# shellcheck disable=SC2317,SC2086 # the tests are called by name; no path here has a space

skreap=/tests/skreap
module=/tests/skreap.ko
btf=/sys/kernel/btf/skreap

engines=$1
list=${2:-}

# expect CODE COMMAND...: runs it; true if it ends with this exit code. Sets $out and $err
expect() {
	expected=$1
	shift
	"$@" >/tmp/out 2>/tmp/err </dev/null
	code=$?
	out=$(cat /tmp/out) err=$(cat /tmp/err)
	[ $code = "$expected" ] && return 0
	echo "$*: exit code $code, not $expected: $out $err" >&2
	return 1
}

# says TEXT WORDS: true if they are in it
says() {
	case $1 in *"$2"*) return 0 ;; esac
	echo "no word of \"$2\" in: $1" >&2
	return 1
}

one_line() {
	[ "$(echo "$1" | wc -l)" = 1 ] && return 0
	echo "more than one line: $1" >&2
	return 1
}

# What probe says about the module
module_finding() {
	expect 0 $skreap probe && echo "$out" | grep 'lock-taking kfunc'
}

# ---- a kernel that has what is needed ----

probe_finds_everything_needed() {
	expect 0 $skreap probe && says "$out" "auto takes the engine ${engines%%,*}: "
}

# Each engine of the table starts, and ends with its input.
all_engines_start() {
	for engine in $(echo "$engines" | tr , ' '); do
		expect 0 $skreap serve --engine "$engine" || return 1
	done
}

demo_destroys_exactly_the_clients_of_the_backend() {
	expect 0 $skreap demo
}

# ---- a kernel that has not ----

probe_names_what_is_missing() {
	expect 3 $skreap probe && one_line "$err" && says "$err" "this kernel lacks" && says "$err" "use Linux 6."
}

serve_is_refused() {
	expect 3 $skreap serve && one_line "$err" && says "$err" "this kernel lacks" && says "$err" "use Linux 6."
}

demo_is_refused() {
	expect 3 $skreap demo && one_line "$err" && says "$err" "this kernel lacks"
}

# ---- the module ----

missing_module_is_named() {
	found=$(module_finding) && says "$found" "module skreap"
}

kfunc_engine_without_module_is_refused() {
	expect 3 $skreap serve --engine kfunc && one_line "$err" && says "$err" "module skreap"
}

module_for_another_kernel_does_not_load() {
	! insmod /tests/other-kernel.ko && [ ! -e /sys/module/skreap ]
}

# The kernel loads it, says 0, and complains where few people look.
module_without_btf_is_not_taken_for_one() {
	echo "skreap-vm: provokes missing module BTF" >/dev/kmsg
	insmod /tests/no-btf.ko && [ ! -e $btf ] && found=$(module_finding) &&
		says "$found" "no   lock-taking kfunc"
	result=$?
	echo "skreap-vm: goes on" >/dev/kmsg
	rmmod skreap && return $result
}

module_loads() {
	insmod $module && [ -e $btf ]
}

loaded_module_is_found() {
	found=$(module_finding) && says "$found" "$btf"
}

auto_takes_the_module() {
	expect 0 $skreap probe && says "$out" "auto takes the engine kfunc: " && expect 0 $skreap serve --engine kfunc
}

# Maps that hold references are freed by a worker of the kernel, a moment after the last process that had them.
module_goes() {
	for _ in 1 2 3 4 5 6 7 8 9 10; do
		rmmod skreap 2>/dev/null && break
		sleep 1
	done
	[ ! -e $btf ]
}

tests="probe_finds_everything_needed all_engines_start demo_destroys_exactly_the_clients_of_the_backend"
[ "$engines" != none ] || tests="probe_names_what_is_missing serve_is_refused demo_is_refused"
[ ! -e $module ] || tests="$tests missing_module_is_named kfunc_engine_without_module_is_refused
	module_for_another_kernel_does_not_load module_without_btf_is_not_taken_for_one module_loads loaded_module_is_found
	auto_takes_the_module module_goes"

failed=0
for test in $tests; do
	if [ -n "$list" ]; then
		echo "$test: test"
	elif $test; then
		echo "test $test ... ok"
	else
		echo "test $test ... FAILED"
		failed=1
	fi
done
exit $failed
