#!/bin/sh
# `jq -e` over JSON lines succeeds if the last line is good, whatever the others say
#
# Guess: `jq -e .complete` fails if a line of its input has false there, or lacks it. So a script
#   that pipes reports through it notices each incomplete one.
# Behaviour: jq reads all lines, and its exit status is that of the *last* line alone: 1 if its
#   output is false or null, 4 if it has none, else 0. What was before it is forgotten, for
#   `select(.complete)` too. A field that is missing is null, and `null < 1` is true.
# Hence: collect the lines: `jq -se 'all(.complete)'`, and `all(.[]; .failed.total == 0)` rather
#   than a comparison by < on a field that may be missing. An empty input makes all() true: count
#   too.
# Versions: jq 1.6-2.1+deb12u3 (Debian 12)
# Seen:
#   .complete, true then false: exit 1
#   .complete, false then true: exit 0
#   select(.complete), true then false: exit 4
#   select(.complete), false then true: exit 0
#   .failed.total < 1, without that field: exit 0
#   all(.complete) of all lines, false then true: exit 1
#   all(.complete) of all lines, true then true: exit 0
#   all(.complete) of all lines, no lines: exit 0
set -eu
packages='jq=1.6-2.1+deb12u3 libjq1=1.6-2.1+deb12u3 libonig5=6.9.8-1'
. "$(dirname "$0")/lib.sh"

# show WHAT LINES JQ-ARGUMENTS: the exit status of jq with these lines as its input.
show() {
	what=$1 lines=$2
	shift 2
	status=0
	printf %b "$lines" | jq -e "$@" >"$work/out" || status=$?
	echo "$what: exit $status"
}

good='{"complete":true}\n' bad='{"complete":false}\n'
show '.complete, true then false' "$good$bad" .complete
show '.complete, false then true' "$bad$good" .complete
show 'select(.complete), true then false' "$good$bad" 'select(.complete)'
show 'select(.complete), false then true' "$bad$good" 'select(.complete)'
show '.failed.total < 1, without that field' "$bad" '.failed.total < 1'
show 'all(.complete) of all lines, false then true' "$bad$good" -s 'all(.complete)'
show 'all(.complete) of all lines, true then true' "$good$good" -s 'all(.complete)'
show 'all(.complete) of all lines, no lines' '' -s 'all(.complete)'
