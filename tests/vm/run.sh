#!/bin/sh
# tests/vm/run.sh [--quick] [KERNEL...]          boots Debian kernels in QEMU and runs the tests
# tests/vm/run.sh [--quick] --debug              the same on a debug kernel built here
# tests/vm/run.sh [--quick] --upstream           the same on a kernel with the patches of docs/upstream,
#                                                built here, and the selftests of these
# tests/vm/run.sh --record [KERNEL...]           writes the verifiers' instruction counts for our
#                                                programs to verifier/KERNEL
# tests/vm/run.sh --bench KERNEL [ARGUMENT...]   runs skreap-bench in one of them; KERNEL upstream: in that
#                                                with the patches, four times, with the kernel's own
#                                                functions and with the module's
# tests/vm/run.sh --soak KERNEL [ARGUMENT...]    runs the soak in one of them:
#                                                --soak 6.12 --minutes 10
#
# KERNEL is a name from the table `kernels`; the default is all of them. --quick: of the kernel
# tests and the faults only those in the list `quick`, and model and soak for half a minute, the
# model in one world. Needs the packages listed in `packages`, apt sources with Debian's archive,
# and root only for modules that are built in a Debian of their own. Uses KVM where it works. A run
# locks target/vm/KERNEL and leaves its results there:
#   console   output of the kernel          verdicts   output of the test programs
#   stderr    their stderr                  result     a verdict for each test
#   bench/    files of skreap-bench         soak/      the totals of the soak
#
# The kernel tests compare the verifier's counts with verifier/KERNEL, if it exists.
#
# SKREAP_VM_TIMEOUT   seconds until the machine is killed
# SKREAP_VM_PROFILE   cargo's profile for the programs: dev in place of release
# SKREAP_VM_APPEND    more words for the kernel's command line
# SKREAP_VM_TESTS     these suites instead of those in the table, separated by commas
# SKREAP_VM_MODULE    no: run the soak and skreap-bench without the module
# SKREAP_VM_FILTER    run only the tests of kernel, model and fault whose names contain this
# SKREAP_MODEL_SECONDS, SKREAP_MODEL_SEED   options of the model, see tests/model/main.rs
set -eu

here=$(cd "$(dirname "$0")" && pwd)
top=$(cd "$here/../.." && pwd)
target=${CARGO_TARGET_DIR:-$top/target}

# Debian has the diag interfaces and veth as modules, kTLS, and 9p, a client inside the kernel.
MODULES="tcp_diag udp_diag veth tls 9p 9pnet_fd"
MEMORY=1G

# How many times as long the tests may take
slowness=1

# More words for the kernel's command line
ARGUMENTS=

# Messages that no kernel may log. Taint alone ("loading out-of-tree module") is no complaint.
complaints='WARNING:|BUG:|BUG |Oops|Kernel panic|Call Trace|general protection|refcount_t:|rcu:.*(stall|detected)'
complaints="$complaints|INFO: .*(lock|RCU|rcu|hung|blocked|suspicious)|possible (circular|recursive)|soft lockup"
complaints="$complaints|unregister_netdevice|missing module BTF|Attempt to release alive"
complaints="$complaints|new suspected memory leaks|locking correctness validator|lockdep is turned off|ODEBUG:"

. "$here/apt.sh"
. "$here/kernel.sh"
. "$here/debug.sh"
. "$here/root.sh"
. "$here/upstream.sh"
. "$here/build.sh"
. "$here/machine.sh"

die() {
	echo "$*" >&2
	exit 1
}

# require_packages LIST TARGET: checks the packages of a list, which this make target installs
require_packages() {
	missing=$(sed '/^#/d' "$1" | while read -r package; do
		dpkg-query -W -f='${db:Status-Status}\n' "$package" 2>/dev/null | grep -qx installed || echo "$package"
	done | tr '\n' ' ')
	[ -z "$missing" ] || die "missing Debian packages: $missing(make $2 installs them)"
}

# claim_results NAME: creates $out and locks it until the shell of this run ends
claim_results() {
	out=$target/vm/$1
	mkdir -p "$out"
	exec 9>"$out/lock"
	flock --nonblock 9 || die "$out is in use by another run: set CARGO_TARGET_DIR for this one"
}

# prepare NAME: reads its row of the table, gets kernel and module; also sets TESTS and ENGINES
prepare() {
	row=$(sed '/^#/d' "$here/kernels" | grep "^$1 ") || die "no kernel $1 in $here/kernels"
	# shellcheck disable=SC2086 # columns
	set -- $row
	[ $# -eq 6 ] || die "not six columns in $here/kernels: $row"
	name=$1 suites=$(echo "$2" | tr , ' ') TESTS=${SKREAP_VM_TESTS:-$5} ENGINES=$6
	claim_results "$name"
	# shellcheck disable=SC2086 # a list
	use_suites $suites && find_kernel "$3" && fetch_kernel && build_module "$4" $suites || return 1
	use_machine
}

# prepare_debug: the same for the debug kernel, which has all drivers built in and is slow
prepare_debug() {
	name=debug TESTS=${SKREAP_VM_TESTS:-command,kernel,kfunc,model,fault,soak} MODULES="" MEMORY=4G slowness=8
	ENGINES=netlink,iter,diag,diag-filter,index-scan
	claim_results "$name"
	# shellcheck disable=SC2046 # a list
	use_suites $(sed -n "s/^$DEBUG_OF  *\([^ ]*\) .*/\1/p" "$here/kernels" | tr , ' ') &&
		fetch_debug_kernel && build_module make || return 1
	use_machine
}

# prepare_upstream: the same for the kernel with the patches of docs/upstream, whose own functions are used in place of
# the module's
prepare_upstream() {
	name=upstream TESTS=${SKREAP_VM_TESTS:-selftests,kernel} MODULE="" SELFTEST="" INSTALLED=""
	MODULES="veth 9p 9pnet_fd"
	# Without ACPI it has no timer to learn from how fast the TSC is, and would count time in ticks of 4 ms. An emulated
	# TSC is the machine's own. If the number is a little wrong, all times are, alike.
	ARGUMENTS="tsc_early_khz=$(sed -n 's/^cpu MHz[^:]*: \([0-9]*\)\.\([0-9]*\)$/\1\2/p' /proc/cpuinfo | head -n 1) tsc=reliable"
	ENGINES=kfunc,netlink,iter,diag,diag-filter,index-scan
	claim_results "$name"
	use_suites "$UPSTREAM_SUITE" && fetch_upstream_kernel || return 1
	use_machine
}

# prepare_any NAME
prepare_any() {
	case $1 in
	debug) prepare_debug ;;
	upstream) prepare_upstream ;;
	*) prepare "$1" ;;
	esac
}

# Broken modules: without BTF, with another function, and built for another kind of kernel
spoil_module() {
	objcopy --remove-section=.BTF "$MODULE" "$root/tests/no-btf.ko"
	LC_ALL=C sed 's/skreap_sock_try_destroy_v1/skreap_sock_try_destroy_v0/g' "$MODULE" >"$root/tests/other-version.ko"
	LC_ALL=C sed 's/\(vermagic=[^ ]*\) SMP/\1 UP?/' "$MODULE" >"$root/tests/other-kernel.ko"
}

# add_suites: the programs of the row's tests, and how init runs them
add_suites() {
	if [ -n "$quick" ]; then
		cp "$here/quick" "$root/tests"
		echo "export SKREAP_TEST_NAMES=/tests/quick" >>"$root/suites"
	fi
	for suite in $(echo "$TESTS" | tr , ' '); do
		case $suite in
		kernel)
			add_program "$KERNEL_TESTS" kernel
			[ ! -e "$here/verifier/$name" ] || {
				cp "$here/verifier/$name" "$root/tests/verifier"
				echo "export SKREAP_VERIFIER_RECORD=/tests/verifier"
			}
			[ -z "$record" ] || echo "export SKREAP_VERIFIER=print"
			echo "export SKREAP_TEST_ENGINES=${MODULE:+kfunc,}$ENGINES"
			# The kernels that are built here have no kTLS.
			case " $MODULES " in *" tls "*) echo "export SKREAP_CLIENT_VIEW=required" ;; esac
			[ -z "$MODULE" ] || echo "load_module"
			[ -z "$upstream" ] || echo "export SKREAP_KFUNC=required"
			echo "suite kernel $((timeout - 60)) /tests/kernel $(printf '%s' "${SKREAP_VM_FILTER:-}")"
			[ -z "$MODULE" ] || echo "unload_module" ;;
		model)
			[ -n "$MODULE" ] || die "$name: here the model is run with the module"
			add_program "$MODEL_TESTS" model
			random=120 worlds=kfunc,kfunc-full,kfunc-wildcard,kfunc-unconnected,kfunc-sharded,module
			[ -z "$quick" ] || random=30 worlds=kfunc
			random=${SKREAP_MODEL_SECONDS:-$((random * slowness))}
			echo "export SKREAP_MODEL_SECONDS=$random SKREAP_MODEL_WORLDS=$worlds SKREAP_MODULE=/tests/skreap.ko"
			[ -z "${SKREAP_MODEL_SEED:-}" ] || echo "export SKREAP_MODEL_SEED=$SKREAP_MODEL_SEED"
			echo "load_module"
			echo "suite model $((random + 600 * slowness)) /tests/model $(printf '%s' "${SKREAP_VM_FILTER:-}")"
			echo "unload_module" ;;
		fault)
			[ -n "$MODULE" ] || die "$name: here faults are tried with the module"
			add_program "$FAULT_TESTS" fault
			echo "export SKREAP_TEST_ENGINES=kfunc"
			echo "load_module"
			echo "suite fault $((1800 * slowness)) /tests/fault $(printf '%s' "${SKREAP_VM_FILTER:-}")"
			echo "unload_module" ;;
		soak)
			[ -n "$MODULE" ] || die "$name: here the soak is run with the module"
			add_program "$SOAK" soak
			add_program "$COMMAND" skreap
			cp "$here/soak.sh" "$root/tests"
			minutes=2
			[ -z "$quick" ] || minutes=0.5
			echo "load_module"
			# Where a start takes minutes beside the churn, no service would run most of the time.
			echo "suite soak $((600 * slowness)) /tests/soak.sh --minutes $minutes ${debug:+--no-kills}"
			echo "unload_module" ;;
		kfunc)
			[ -n "$MODULE" ] || die "$name: the tests of the kfuncs need the module"
			cp "$target/vm/kfunc/kfunc" "$target/vm/kfunc/kfunc.bpf.o" "$here/kfunc-in-order" "$root/tests"
			echo "suite kfunc $((600 * slowness)) /tests/kfunc-in-order" ;;
		command)
			add_program "$COMMAND" skreap
			cp "$here/command.sh" "$root/tests"
			[ -z "$MODULE" ] || spoil_module
			[ -z "$debug" ] || echo "export DEMO_SIZE='--sockets 480 --rounds 4'"
			echo "suite command $((1200 * slowness)) /tests/command.sh $ENGINES" ;;
		names)
			[ -n "$MODULE" ] || die "$name: the stand-in for the kernel's own functions is made of the module"
			make_stand_in
			add_program "$KERNEL_TESTS" kernel
			cp "$out/stand-in/skreap_upstream.ko" "$here/upstream/names" "$root/tests"
			echo "export SKREAP_TEST_ENGINES=kfunc"
			echo "load_module skreap_upstream"
			echo "SKREAP_TEST_NAMES=/tests/names suite names $((1800 * slowness)) /tests/kernel"
			echo "unload_module skreap_upstream" ;;
		selftests)
			[ -n "$upstream" ] || die "$name: only the kernel with the patches has selftests of them"
			add_program "$SELFTESTS" selftests
			echo "suite selftests 600 /tests/selftests" ;;
		alternatives)
			[ -n "$upstream" ] || die "$name: the alternatives are patches for another kernel"
			add_program "$ALTERNATIVES" alternatives
			echo "suite alternatives 1800 /tests/alternatives" ;;
		*) die "$name: no tests $suite: alternatives, command, fault, kernel, kfunc, model, names, selftests or soak" ;;
		esac >>"$root/suites"
	done
}

# judge: prints the verdicts; false if anything is wrong
judge() {
	awk -f "$here/verdicts.awk" "$out/verdicts" >"$out/result"
	for verdict in pass fail skip lost; do
		eval "$verdict=\$(grep -c '^$verdict ' '$out/result' || :)"
	done
	# shellcheck disable=SC2154 # set by eval
	echo "$name ($RELEASE, $ACCELERATOR): $pass passed, $fail failed, $skip skipped, $lost lost, $seconds s"
	grep -v '^pass ' "$out/result" | head -n 20 || :
	good=true
	if [ "$fail" -gt 0 ] || [ "$lost" -gt 0 ] || [ "$pass" -eq 0 ]; then
		good=false
		echo "see $out/verdicts, stderr and console"
	fi
	# A test that provokes a complaint says so before.
	if ! awk -v complaints="$complaints" -f "$here/console.awk" "$out/console"; then
		good=false
		echo "see $out/console"
	fi
	$good
}

# test_kernel NAME
test_kernel() {
	prepare_any "$1" || return 1
	[ "$1" != upstream ] || build_selftests || return 1
	start_image
	add_suites
	finish_image
	begin=$(date +%s)
	ended=true
	boot "$timeout" || ended=false
	seconds=$(($(date +%s) - begin))
	judge && $ended
}

# record_kernel NAME: stores the output of the test
record_kernel() {
	SKREAP_VM_FILTER=cost_the_verifier
	# A row without the kernel tests has no use for a record.
	sed '/^#/d' "$here/kernels" | grep "^$1 " | awk '{ print $5 }' | tr , '\n' | grep -qx kernel || return 0
	test_kernel "$1" || return 1
	mkdir -p "$here/verifier"
	"$here/verifier.sh" "$RELEASE" <"$out/stderr" >"$here/verifier/$name"
}

# run_alone NAME bench|soak ARGUMENT...: runs it in a machine that does nothing else; its files are
# left in $out/bench or soak
run_alone() {
	prepare_any "$1" || return 1
	[ "$1 $2" != "upstream bench" ] || build_module_form || return 1
	shift
	start_image
	case $1 in
	bench) add_program "$BENCH" skreap-bench ;;
	soak)
		add_program "$SOAK" soak
		add_program "$COMMAND" skreap ;;
	esac
	if [ "$name" = upstream ]; then
		[ "$1" = bench ] || die "upstream: only skreap-bench runs alone there"
		cp "$MODULE_BTF" "$root/tests/vmlinux.btf"
		shift
		set -- bench_forms "$@"
	else
		[ -z "$MODULE" ] || [ "${SKREAP_VM_MODULE:-}" = no ] || echo "insmod /tests/skreap.ko" >>"$root/suites"
	fi
	echo "$*" >>"$root/suites"
	finish_image
	boot "$timeout" || return 1
	rm -rf "${out:?}/$what"
	mkdir "$out/$what"
	tar -x -C "$out/$what" --strip-components 1 -f "$out/files" || die "no files came out of the machine, see $out/stderr"
	cat "$out/verdicts"
	ls "$out/$what"/*
	grep -q 'ended with 0$' "$out/verdicts"
}

require_packages "$here/packages" deps-vm
mkdir -p "$target/vm"
case ${1:-} in --bench | --soak)
	[ $# -gt 1 ] || die "usage: tests/vm/run.sh $1 KERNEL [ARGUMENT...]"
	what=${1#--} kernel=$2
	shift 2
	MEMORY=4G
	timeout=${SKREAP_VM_TIMEOUT:-3600}
	"build_$what"
	run_alone "$kernel" "$what" "$@"
	exit ;;
esac
quick='' record=''
if [ "${1:-}" = --record ]; then
	record=yes
	SKREAP_VM_TESTS=kernel
	shift
fi
if [ "${1:-}" = --quick ]; then
	quick=yes
	shift
fi
debug=
if [ "${1:-}" = --debug ]; then
	debug=yes
	shift
	[ $# -eq 0 ] || die "usage: tests/vm/run.sh [--quick] --debug"
	require_packages "$here/debug/packages" deps-debug-kernel
	set -- debug
fi
upstream=
if [ "${1:-}" = --upstream ]; then
	upstream=yes
	shift
	[ $# -eq 0 ] || die "usage: tests/vm/run.sh [--quick] --upstream"
	require_packages "$here/upstream/packages" deps-upstream
	set -- upstream
fi
timeout=${SKREAP_VM_TIMEOUT:-${debug:+28800}}
timeout=${timeout:-${quick:+1800}}
timeout=${timeout:-7200}
# shellcheck disable=SC2046 # a list
[ $# -gt 0 ] || set -- $(sed '/^#/d' "$here/kernels" | cut -d ' ' -f 1)
if [ -n "$upstream" ]; then build_kernel_tests; else build_tests; fi
failed=
for kernel; do
	# In a subshell, so that a kernel that cannot be fetched does not hide the others. `set -e` has no
	# effect there.
	if [ -n "$record" ]; then
		(record_kernel "$kernel")
	else
		(test_kernel "$kernel")
	fi || failed="$failed $kernel"
done
[ -z "$failed" ] || die "failed:$failed"
