//! The parts of a manual page that `--help` does not have.

/// The words of one page.
pub(super) struct Page {
    /// Name of the command, without `skreap` before it.
    pub(super) command: &'static str,
    /// Paragraphs of the description.
    pub(super) more: &'static [&'static str],
    pub(super) environment: &'static [(&'static str, &'static str)],
    pub(super) files: &'static [(&'static str, &'static str)],
    /// Purpose, and the command line.
    pub(super) examples: &'static [(&'static str, &'static str)],
    pub(super) see: &'static [&'static str],
}

pub(super) fn of(command: &str) -> Option<&'static Page> {
    PAGES.iter().find(|page| page.command == command)
}

pub(super) const EXIT: [(&str, &str); 4] = [
    ("0", "Done."),
    ("1", "It failed, or the request did not succeed; the output says why."),
    ("2", "Wrong usage: an argument that makes no sense."),
    ("3", "Not possible on this kernel or with these privileges; the message names the missing part."),
];

pub(super) const EXIT_OF_AUDIT: [(&str, &str); 4] = [
    EXIT[0],
    ("1", "It failed, or the index is not right; the output lists each difference."),
    EXIT[2],
    EXIT[3],
];

const LOG: (&str, &str) = ("SKREAP_LOG", "Log level, as with --log.");
const SOCKET: [(&str, &str); 3] = [
    LOG,
    ("SKREAP_SOCKET", "The unix socket of the service, as with --socket."),
    (
        "RUNTIME_DIRECTORY, XDG_RUNTIME_DIR",
        "Default path of the socket: $RUNTIME_DIRECTORY/skreap.sock; for a user other than root \
         $XDG_RUNTIME_DIR/skreap/skreap.sock if that exists; else /run/skreap/skreap.sock.",
    ),
];
const SOCKET_FILE: (&str, &str) = ("/run/skreap/skreap.sock", "The socket of the machine's service.");
const PINS: (&str, &str) = (
    "/sys/fs/bpf/skreap",
    "Hooks and index, with serve --pin. They stay when the service ends; skreap unload removes them.",
);
const SETTINGS: (&str, &str) =
    ("/etc/default/skreap", "Arguments for the service that systemd starts (SKREAP_OPTS), and SKREAP_LOG.");

const OF_REPORTS: &str = "The service answers with a report: the numbers of sockets found, destroyed, skipped (by reason) and \
    failed (with their tuples). The report is complete if no socket of the backend can have been missed. The exit status \
    is 1 if it is not complete, or if a socket could not be destroyed.";

const OF_CLIENTS: &str = "The owner of a destroyed UDP socket gets ECONNABORTED from one call (recv, SO_ERROR, or the \
    first send after another connect) and can connect again with the same descriptor. The owner of a TCP connection gets \
    ECONNABORTED, then the end; its peer gets a reset. A UDP socket over IPv6 receives nothing but from its old peer until it \
    connects again, and SO_BINDTODEVICE of a UDP socket is lost. /usr/share/doc/skreap/client-view.md has the results of \
    each call.";

pub(super) const PAGES: [Page; 14] = [
    Page {
        command: "skreap",
        more: &[
            "A load balancer that works on sockets translates a service address once, when a client calls connect() or \
             sendmsg(). If that backend is deleted, connected clients keep talking to nothing. skreap keeps an \
             index of sockets by backend, in BPF maps that cgroup hooks fill. On an event it destroys exactly the \
             sockets of the deleted backend, in all network namespaces. Their owners get ECONNABORTED and connect \
             again, to a living backend.",
            "skreap serve is the service; the other commands send it requests, or test this machine. skreap probe \
             says whether this kernel is sufficient.",
        ],
        environment: &SOCKET,
        files: &[SOCKET_FILE, PINS, SETTINGS],
        examples: &[
            ("Check whether this kernel is sufficient:", "skreap probe"),
            ("Start the service, and let hooks and index outlive it:", "skreap serve --source unix --pin"),
            (
                "List the sockets that a deletion of this backend would destroy:",
                "skreap reap udp://10.0.0.1:53 --dry-run",
            ),
            ("Report its deletion:", "skreap reap udp://10.0.0.1:53"),
        ],
        see: &["bpf(2)", "sock_diag(7)", "cgroups(7)"],
    },
    Page {
        command: "probe",
        more: &[
            "Nothing is guessed from a version: each program is loaded, each hook attached to a cgroup of its own, and a \
             private socket destroyed by each engine. A required feature that does not work is marked NO, an optional one \
             no. The last lines show the order in which the programs on the root cgroup run.",
        ],
        environment: &[LOG],
        files: &[],
        examples: &[
            ("Show the features that work here, and the missing ones:", "skreap probe"),
            ("For a script:", "skreap probe --json | jq -r .engine"),
        ],
        see: &["skreap(1)", "skreap-serve(1)"],
    },
    Page {
        command: "serve",
        more: &[
            "Requests and answers are JSON, one object a line, over standard input and output or a unix socket; \
             /usr/share/doc/skreap/embedding.md has all of them. Every accepted request gets an answer, also while the \
             service shuts down.",
            "At the start it gives up all capabilities but six: CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN, and, raised \
             only while it searches for a network namespace or a cgroup, CAP_SYS_ADMIN, CAP_SYS_PTRACE and \
             CAP_DAC_READ_SEARCH. Any user with these six may run it.",
            "With --pin the hooks and the index are pinned on a bpf filesystem. They stay when the process ends, in \
             whatever way, and the next serve --pin takes them over: no connect is missed in between.",
            "If a service manager started it (NOTIFY_SOCKET), it reports when the hooks are attached and all sockets \
             listen, its status, and its end. It feeds the watchdog only while the reaper makes progress, so a \
             service that is stuck is restarted.",
            "The first SIGTERM, SIGINT or SIGHUP ends it in good order: it stops reading, completes and answers all \
             accepted requests, and cuts the pauses of --max-rate short. The second ends it at once.",
        ],
        environment: &[
            LOG,
            ("RUNTIME_DIRECTORY, XDG_RUNTIME_DIR", "Directory of the socket of --source unix, see --source."),
            ("NOTIFY_SOCKET, WATCHDOG_USEC", "Set by systemd, see sd_notify(3)."),
        ],
        files: &[SOCKET_FILE, PINS, SETTINGS],
        examples: &[
            (
                "As in the package, with metrics for Prometheus and an audit every ten minutes:",
                "skreap serve --source unix --pin --metrics --audit-interval 600",
            ),
            ("Allow requests from another user:", "skreap serve --source unix --allow-uid nobody"),
            (
                "One event from standard input:",
                "echo '{\"id\":\"1\",\"type\":\"backend-deleted\",\"backend\":\"udp://10.0.0.1:53\"}' | skreap serve",
            ),
            (
                "Destroy at most 1000 sockets a second, and refuse events with more than 10000 victims:",
                "skreap serve --source unix --max-rate 1000 --max-victims 10000",
            ),
        ],
        see: &["skreap(1)", "skreap-unload(1)", "skreap-reap(1)", "skreap-status(1)", "systemd.service(5)"],
    },
    Page {
        command: "unload",
        more: &[
            "Refused while a service uses the directory: stop the service first. Afterwards no socket is recorded any \
             more. The next service creates a new index and searches for the sockets that are connected by then, \
             unless it has --no-bootstrap. The backends that unconnected UDP sockets have sent to are lost.",
        ],
        environment: &[LOG],
        files: &[PINS],
        examples: &[
            ("After the service was stopped permanently:", "skreap unload"),
            ("From another directory:", "skreap unload --pin /sys/fs/bpf/test"),
        ],
        see: &["skreap(1)", "skreap-serve(1)"],
    },
    Page {
        command: "index",
        more: &[
            "Shows for each backend the number of sockets connected to it, of sockets that have sent to it without \
             connecting, and of their network namespaces. This walks the whole index; the service continues meanwhile.",
            "UDP servers on this machine send to their clients from unconnected sockets. These clients are only counted; \
             --all lists them. An address counts as a client if its port is in the range from which kernels assign ports \
             (net.ipv4.ip_local_port_range) and only sockets with a port below that range have sent to it.",
        ],
        environment: &SOCKET,
        files: &[SOCKET_FILE],
        examples: &[
            ("List the ten backends with the most sockets:", "skreap index --limit 10"),
            ("Show one backend:", "skreap index --backend udp://10.0.0.1:53"),
        ],
        see: &["skreap(1)", "skreap-top(1)", "skreap-audit(1)"],
    },
    Page {
        command: "status",
        more: &["The service answers beside the work on events; no event is delayed."],
        environment: &SOCKET,
        files: &[SOCKET_FILE],
        examples: &[
            ("Show the state once:", "skreap status"),
            ("Check whether the hooks run last:", "skreap status --json | jq .order.last"),
        ],
        see: &["skreap(1)", "skreap-top(1)"],
    },
    Page {
        command: "audit",
        more: &[
            "Each difference is printed with its tuple: missed (a connected socket that no event would reach), wrong key \
             (recorded under another backend than its own), stale (recorded, but the socket does not exist).",
        ],
        environment: &SOCKET,
        files: &[SOCKET_FILE],
        examples: &[
            ("Check the index:", "skreap audit"),
            ("In a script:", "skreap audit --json | jq .agrees"),
        ],
        see: &["skreap(1)", "skreap-serve(1)"],
    },
    Page {
        command: "top",
        more: &[
            "A live view, redrawn at each interval; q ends it, ? explains keys and columns. If the output is not a \
             terminal, or one that cannot move its cursor (TERM=dumb), one frame is printed as text.",
        ],
        environment: &SOCKET,
        files: &[SOCKET_FILE],
        examples: &[("Watch it:", "skreap top"), ("One frame:", "skreap top --once")],
        see: &["skreap(1)", "skreap-status(1)"],
    },
    Page {
        command: "reap",
        more: &[
            "Remove the backend from the load balancer first; otherwise new clients connect after the walk.",
            "--cgroup, --netns, --uid and --interface restrict it to some sockets of the backends, as in \
             skreap-terminate(1); those for which all --except conditions hold stay. For a link-local backend --netns is the \
             network namespace of its link.",
            "With --once no service is needed: the existing sockets are indexed, those of the directory --cgroup only, as at \
             the start of a service, and no hook stays attached. UDP sockets that have only sent are not found then.",
            OF_REPORTS,
            OF_CLIENTS,
        ],
        environment: &SOCKET,
        files: &[SOCKET_FILE],
        examples: &[
            ("List the victims:", "skreap reap udp://10.0.0.1:53 --dry-run"),
            ("Two backends at once:", "skreap reap udp://10.0.0.1:53 tcp://[fd00::1]:80"),
            (
                "A link-local backend, with its link and the network namespace of that:",
                "skreap reap 'udp://[fe80::1%eth0]:53' --netns /run/netns/blue",
            ),
            ("One of two tenants with the same addresses:", "skreap reap udp://10.0.0.1:53 --netns blue"),
            ("Without a service:", "skreap reap --once udp://10.0.0.1:53"),
        ],
        see: &["skreap(1)", "skreap-reconcile(1)", "skreap-terminate(1)"],
    },
    Page {
        command: "terminate",
        more: &[
            "Destroys the connected sockets for which all conditions hold that are given, of all network namespaces at \
             once; a list means any of its entries. Sockets for which all --except conditions hold stay. At least one \
             condition is needed. Try --dry-run first: it shows how many sockets of which cgroup, netns, backend and \
             process would be destroyed.",
            "10.0.0.0/8 also holds IPv4-mapped addresses of IPv6 sockets; ::/0 holds no IPv4 address. The cgroup is the one \
             that the socket was made in, also if that was removed or its process moved since. The user is that of the \
             socket: who made it, or to whom fchown(2) has given it; a socket that is passed to another process keeps its \
             user. A cgroup or netns that is gone is an error.",
            "Sockets without a peer, which only ever sent, stay; serve --unconnected=destroy changes that.",
            OF_REPORTS,
        ],
        environment: &SOCKET,
        files: &[SOCKET_FILE],
        examples: &[
            ("See what a prefix would end:", "skreap terminate --to 10.0.0.0/8 --dry-run"),
            (
                "DNS of a service, but for its own resolver:",
                "skreap terminate --port 53 --cgroup /sys/fs/cgroup/a.slice --except-to 10.0.0.53",
            ),
            ("One of two tenants with the same addresses:", "skreap terminate --to 10.0.0.7 --netns blue"),
        ],
        see: &["skreap(1)", "skreap-reap(1)", "skreap-reconcile(1)"],
    },
    Page {
        command: "reconcile",
        more: &[
            "For a control plane that may have lost events. Each backend in the index that is not in the list counts as \
             deleted, so try --dry-run first. An empty list is refused, and so is a reconcile without --within or \
             --max-victims if the service indexes the whole machine, unless --cgroup, --netns or --uid restricts it. One that \
             would destroy more than a tenth of the connected sockets that it selects, or more than 100 if that is more, is \
             refused as well (--reconcile-max of the service).",
            "On a terminal the backends that would be hit are shown, and a yes is asked for. Elsewhere, and where the \
             list comes from standard input, --yes has to be given. Link-local backends are never touched.",
            "--cgroup, --netns, --uid and --interface restrict it to some sockets, as in skreap-terminate(1); those for \
             which all --except conditions hold stay.",
            OF_REPORTS,
            OF_CLIENTS,
        ],
        environment: &SOCKET,
        files: &[SOCKET_FILE],
        examples: &[
            ("List the victims:", "skreap reconcile --dry-run udp://10.0.0.1:53 udp://10.0.0.2:53"),
            ("A long list of pods:", "cat living | skreap reconcile --within 10.0.0.0/8,fd00::/8 --yes"),
            ("Of one tenant:", "cat living | skreap reconcile --netns blue --yes"),
        ],
        see: &["skreap(1)", "skreap-reap(1)", "skreap-terminate(1)"],
    },
    Page {
        command: "replay",
        more: &[
            "The file is one that `skreap serve --audit-log` has written. Each event in it is sent again, as it was sent \
             then, and shown beside what it destroyed then.",
            "On a terminal the victims are counted and shown, and a yes is asked for. Elsewhere --yes has to be given. With \
             --dry-run nothing is destroyed.",
            OF_CLIENTS,
        ],
        environment: &SOCKET,
        files: &[SOCKET_FILE],
        examples: &[
            ("What the same events would do now:", "skreap replay /var/log/skreap/audit.log --dry-run"),
            ("One of them again:", "skreap replay /var/log/skreap/audit.log --event e1"),
        ],
        see: &["skreap(1)", "skreap-serve(1)", "skreap-reap(1)"],
    },
    Page {
        command: "check-rules",
        more: &[
            "A file of rules is TOML: one [[rule]] after the other. The first rule whose conditions all hold for a socket \
             gives its action; a socket for which none holds is destroyed. Conditions are protocol, ports (of the backend), \
             cgroup, uid and command (15 bytes, as ps -o comm shows it); a rule without conditions holds for every socket. \
             action is destroy, revive, move or none, with the fields that events have: to, spread, force, after_ms, tcp, \
             else.",
            "UDP sockets of ports 443, 853, 3478, 4500, 5683 and 5684 are never revived or moved without force = true.",
            "A mistake is reported with its line and column. Exit code 1 also if some rule can never match.",
        ],
        environment: &[LOG],
        files: &[(
            "/usr/share/doc/skreap/examples/rules.example.toml",
            "rules for one-way traffic, commented out",
        )],
        examples: &[("Check a file:", "skreap check-rules /etc/skreap/rules.toml")],
        see: &["skreap(1)", "skreap-serve(1)", "skreap-reap(1)"],
    },
    Page {
        command: "demo",
        more: &[
            "It works in network namespaces and a cgroup of its own, on this machine's kernel, and removes them at the \
             end. It needs root, and no running service.",
        ],
        environment: &[LOG],
        files: &[],
        examples: &[
            ("All of it:", "skreap demo"),
            ("A small one:", "skreap demo --sockets 480 --netns 4 --rounds 5"),
        ],
        see: &["skreap(1)", "skreap-probe(1)"],
    },
];
