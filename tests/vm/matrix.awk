# Makes docs/support-matrix.md from the table `kernels`.

BEGIN {
	print "# Support matrix"
	print ""
	print "Made from `tests/vm/kernels` by `make support-matrix`; `make test` fails when they differ. Each kernel is"
	print "Debian's own, unchanged and the newest of its package at the time of the run, booted in QEMU by `make test-matrix`."
	print "What a cell says is what a test there expects, so a kernel that does more or less than this fails."
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
	print "- in bold: what `auto` takes, with the module and without."
	print "- refused: `skreap probe`, `serve` and `demo` say in one line what the kernel lacks, and end with exit code 3."
	print "- tests: `command` is the command from outside, with the module missing, useless, loaded and removed; `kernel` are"
	print "  the kernel tests with real sockets, processes and namespaces, once for each engine; `kfunc` are the module's own;"
	print "  `model` are random operations with engine `kfunc`, held against a model of the truth; `fault` has every call into the"
	print "  kernel fail once with that engine; `soak` churns at full speed with events and kills, with that engine too."
	print ""
	print "Besides, the unit, command, kernel, fault and model tests run natively, with the engines that work there, on the kernel"
	print "of the machine that runs `make test`. Only x86-64 is tested."
}
