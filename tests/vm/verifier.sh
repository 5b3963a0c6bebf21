#!/bin/sh
# tests/vm/verifier.sh RELEASE   makes a record from the stderr of the kernel tests, run with
#                                SKREAP_VERIFIER=print
cat <<-END
	# Instructions that the verifier of $1 looks at before it takes our programs; written by
	# \`make verifier-record\`. refs: loaded with references, by the kernel module. A test fails if a program needs a
	# fifth more.
END
sed -n 's/^verified //p' | LC_ALL=C sort
