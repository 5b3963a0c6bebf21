# Reads the kernel's console; prints the lines that match `complaints`, and ends with 1 if there are any.
# A test that provokes one writes before it, to /dev/kmsg: "skreap-vm: provokes WORDS". It must come before the
# next line of skreap-vm, any number of times.

{ sub(/\r$/, "") }

/skreap-vm: / {
	expect()
	if (sub(/.*skreap-vm: provokes /, ""))
		provoked = $0
	next
}

provoked != "" && index($0, provoked) {
	came = 1
	next
}

$0 ~ complaints {
	print FILENAME ":" FNR ": " $0
	found = 1
}

function expect() {
	if (provoked != "" && !came) {
		print "the kernel did not say: " provoked
		found = 1
	}
	provoked = ""
	came = 0
}

END {
	expect()
	exit found
}
