#!/bin/sh
# command.sh ENGINES [--list]   tests the command in the machine: its messages about this kernel and
#                               the module
#
# DEMO_SIZE: options of the demo, for slow machines
# ENGINES: the engines that must work here, the choice of `auto` first; none: the command must refuse.
# shellcheck disable=SC2317,SC2086 # the tests are called by name; no path here has a space

skreap=/tests/skreap
module=/tests/skreap.ko
btf=/sys/kernel/btf/skreap

engines=$1
list=${2:-}

# expect CODE COMMAND...: runs it; true if it exits with this code. Sets $out and $err
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

# says TEXT WORDS: true if the text contains the words
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

# The line of probe about the module
module_finding() {
	expect 0 $skreap probe && echo "$out" | grep 'lock-taking kfunc'
}

# ---- a kernel with all needed features ----

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
	expect 0 $skreap demo ${DEMO_SIZE:-}
}

# ---- a kernel without them ----

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

# The kernel loads it, returns 0, and complains only in its log.
module_without_btf_is_not_taken_for_one() {
	echo "skreap-vm: provokes missing module BTF" >/dev/kmsg
	insmod /tests/no-btf.ko && [ ! -e $btf ] && found=$(module_finding) &&
		says "$found" "no   lock-taking kfunc"
	result=$?
	echo "skreap-vm: goes on" >/dev/kmsg
	rmmod skreap && return $result
}

# The state after `make kmod-install`, and the next step
installed_module_is_loaded_by_name() {
	found=$(module_finding) && says "$found" "is not loaded: \`modprobe skreap\`" && modprobe skreap && [ -e $btf ] &&
		found=$(module_finding) && says "$found" "yes  lock-taking kfunc"
	result=$?
	module_goes && return $result
}

self_test_passes() {
	insmod /tests/selftest.ko && dmesg | grep 'skreap: self-test: all [1-9][0-9]* checks passed' >&2
	result=$?
	rmmod skreap
	return $result
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

# start_serve ARGUMENT...: starts it in the background and waits until it responds; sets $serving
start_serve() {
	$skreap serve --source unix:/run/skreap.sock "$@" </dev/null >/tmp/served 2>&1 &
	serving=$!
	for _ in $(seq 60); do
		expect 0 $skreap status --socket /run/skreap.sock 2>/dev/null && return 0
		sleep 1
	done
	echo "serve does not answer: $(cat /tmp/served)" >&2
	return 1
}

stop_serve() {
	kill $serving 2>/dev/null
	wait $serving
}

# The engine line of the running service
engine_row() {
	expect 0 $skreap status --socket /run/skreap.sock && echo "$out" | grep '^engine'
}

# With its engine, and it accepts an event.
goes_on() {
	row=$(engine_row) && says "$row" "engine    $1: " &&
		expect 0 $skreap reap --json --socket /run/skreap.sock udp://192.0.2.1:53 && says "$out" "\"engine\":\"$1\""
}

# The clock jumps ten years forward and twenty back: events are reported, and take no years.
clock_jumps() {
	now=$(date +%s)
	start_serve
	result=$?
	for jump in 315360000 -315360000; do
		[ $result = 0 ] && date -s "@$((now + jump))" >&2 && sleep 2 && goes_on "${engines%%,*}" && quick_event || result=1
	done
	date -s "@$now" >&2
	stop_serve
	return $result
}

# In the report from goes_on the event took more than nothing, and less than a minute.
quick_event() {
	total=$(echo "$out" | sed -n 's/.*"ns":{[^}]*"total":\([0-9]*\).*/\1/p')
	[ "${total:-0}" -gt 0 ] && [ "$total" -lt 60000000000 ] && return 0
	echo "an event that took ${total:-no} ns: $out" >&2
	return 1
}

# A serve without the module says when the module could be used, does not hold it, and keeps its
# engine to the end.
module_that_comes_and_goes_while_serving() {
	start_serve && goes_on "${engines%%,*}" && insmod $module &&
		row=$(engine_row) && says "$row" "the module skreap is loaded by now: restart the service" &&
		goes_on "${engines%%,*}" && rmmod skreap && ! engine_row | grep -q "loaded by now" &&
		goes_on "${engines%%,*}"
	result=$?
	stop_serve
	rmmod skreap 2>/dev/null
	return $result
}

# A serve with the module holds it.
module_in_use_stays() {
	insmod $module && start_serve && goes_on kfunc && ! rmmod skreap && [ -e $btf ] && goes_on kfunc
	result=$?
	stop_serve
	module_goes && return $result
}

# Pins hold it without a process.
module_of_pinned_index_stays() {
	pins=/sys/fs/bpf/skreap-test
	insmod $module && start_serve --pin $pins && goes_on kfunc && stop_serve && ! rmmod skreap &&
		start_serve --pin $pins && goes_on kfunc
	result=$?
	stop_serve
	expect 0 $skreap unload --pin $pins && module_goes && return $result
}

# Pins created without the module are taken over without it, and serve says so.
index_pinned_without_module_goes_on_without() {
	pins=/sys/fs/bpf/skreap-test
	start_serve --pin $pins && stop_serve && insmod $module && start_serve --pin $pins &&
		goes_on "${engines%%,*}" && row=$(engine_row) && says "$row" "loaded by now: stop the service, \`skreap unload\`"
	result=$?
	stop_serve
	expect 0 $skreap unload --pin $pins && module_goes && return $result
}

# One function has another name in that module.
module_of_another_version_is_not_taken() {
	insmod /tests/other-version.ko && [ -e $btf ] && found=$(module_finding) &&
		says "$found" "no   lock-taking kfunc" && says "$found" "has no skreap_sock_try_destroy_v1, it is of another version" &&
		expect 3 $skreap serve --engine kfunc && one_line "$err" && says "$err" "another version" &&
		start_serve && goes_on "${engines%%,*}"
	result=$?
	stop_serve
	module_goes && [ $result = 0 ] && insmod $module && start_serve && goes_on kfunc
	result=$?
	stop_serve
	module_goes && return $result
}

# A worker of the kernel frees maps with references, a moment after their last process has ended.
module_goes() {
	for _ in 1 2 3 4 5 6 7 8 9 10; do
		rmmod skreap 2>/dev/null && break
		sleep 1
	done
	[ ! -e $btf ]
}

tests="probe_finds_everything_needed all_engines_start demo_destroys_exactly_the_clients_of_the_backend clock_jumps"
[ "$engines" != none ] || tests="probe_names_what_is_missing serve_is_refused demo_is_refused"
[ ! -e $module ] || tests="$tests missing_module_is_named kfunc_engine_without_module_is_refused
	module_for_another_kernel_does_not_load module_without_btf_is_not_taken_for_one self_test_passes module_loads loaded_module_is_found
	auto_takes_the_module module_goes module_that_comes_and_goes_while_serving module_in_use_stays
	module_of_pinned_index_stays index_pinned_without_module_goes_on_without module_of_another_version_is_not_taken"

[ ! -e "/lib/modules/$(uname -r)/updates" ] || tests="$tests installed_module_is_loaded_by_name"

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
