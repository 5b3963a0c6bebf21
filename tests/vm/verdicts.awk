# Reads what init writes to ttyS1; prints a verdict for each test, "VERDICT SUITE/TEST [REASON]".
# lost: it was to run, and nothing was heard of it.

# Colours are left out: a test program may think that it talks to a person.
{ sub(/\r$/, ""); gsub(/\033\[[0-9;]*m/, "") }

/^@suite / { suite = $2; listing = 1; next }
/^@run$/ { listing = 0; next }
/^@exit / { code[suite] = $2; pending = ""; next }
/^@done / { done = 1; next }

listing && /: test$/ {
	sub(/: test$/, "")
	expected[++count] = suite "/" $0
	next
}

# The name comes when the test begins, the verdict when it ends; other words may come between them.
/^test .* \.\.\. / {
	line = $0
	sub(/^test /, "", line)
	at = index(line, " ... ")
	pending = substr(line, 1, at - 1)
	sub(/ +$/, "", pending)
	$0 = substr(line, at + 5)
}

pending != "" && /^(ok|FAILED)$/ { note($0 == "ok" ? "pass" : "fail", "") }
pending != "" && /^ignored/ {
	reason = $0
	sub(/^ignored,? */, "", reason)
	note("skip", "(" reason ")")
}

function note(result, reason) {
	verdict[suite "/" pending] = result
	why[suite "/" pending] = reason
	pending = ""
}

END {
	for (i = 1; i <= count; i++) {
		test = expected[i]
		print (test in verdict ? verdict[test] : "lost"), test, why[test]
	}
	# A suite may fail without a failed test: it crashed at its end, or could not begin.
	for (suite in code)
		if (code[suite] != 0)
			print "fail", suite "/(exit status)", code[suite]
	if (!done)
		print "lost", "(the virtual machine did not come to its end)"
}
