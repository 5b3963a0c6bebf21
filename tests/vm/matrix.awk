# Makes docs/support-matrix.md from the table `kernels`.

BEGIN {
	print "# Support matrix"
	print ""
	print "`make support-matrix` generates this page from `tests/vm/kernels`; `make test` fails when they differ."
	print "Each kernel is Debian's own, unchanged and the newest of its package at the time of the run."
	print "`make test-matrix` boots it in QEMU. Each cell is the expectation of a test there, so a kernel that supports"
	print "more or less fails."
	print ""
	split("kfunc netlink iter diag diag-filter index-scan", all, " ")
	head = "| kernel | Debian's package | module"
	line = "|---|---|---"
	for (i = 1; i in all; i++) {
		head = head " | `" all[i] "`"
		line = line "|---"
	}
	print head " | tests |"
	print line "|---|"
}

/^#/ || NF == 0 { next }

NF != 6 {
	print "not six columns: " $0 >"/dev/stderr"
	exit 1
}

{
	split($2, suites, ",")
	row = "| " $1 " | `linux-image-" $3 "` of " suites[1]
	row = row " | " ($4 == "none" ? "none" : $4 == "dkms" ? "by DKMS, with the tools of that Debian" : "by `make kmod`")
	for (i = 1; i in all; i++) {
		if ($6 == "none")
			says = "refused"
		else if (all[i] == "kfunc" && $4 != "none")
			says = "**with the module**"
		else
			says = index("," $6 ",", "," all[i] ",") ? ($6 ~ "^" all[i] "(,|$)" ? "**yes**" : "yes") : "no"
		row = row " | " says
	}
	gsub(",", ", ", $5)
	print row " | " $5 " |"
}

END {
	print ""
	print "- in bold: the choice of `auto`, with the module and without."
	print "- refused: `skreap probe`, `serve` and `demo` name the missing feature in one line, and exit with code 3."
	print "- tests: `command` is the command from outside, with the module missing, useless, loaded and removed;"
	print "  `kernel` are the kernel tests with real sockets, processes and namespaces, once for each engine; `kfunc`"
	print "  are the module's own; `model` are random operations with engine `kfunc`, compared with a model; `fault`"
	print "  makes every call into the kernel fail once with that engine; `soak` churns at full speed with events and"
	print "  kills, also with that engine."
	print ""
	print "The unit, command, kernel, fault and model tests also run natively, with the engines that work there, on"
	print "the kernel of the machine that runs `make test`. Only x86-64 is tested."
}
