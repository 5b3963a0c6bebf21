//! What a manual page says beyond what `--help` does.

/// The words of one page.
pub(super) struct Page {
    /// Name of the command, without `skreap` before it.
    pub(super) command: &'static str,
    /// Paragraphs of the description.
    pub(super) more: &'static [&'static str],
    pub(super) environment: &'static [(&'static str, &'static str)],
    pub(super) files: &'static [(&'static str, &'static str)],
    /// What for, and the command line.
    pub(super) examples: &'static [(&'static str, &'static str)],
    pub(super) see: &'static [&'static str],
}

pub(super) fn of(command: &str) -> Option<&'static Page> {
    PAGES.iter().find(|page| page.command == command)
}

pub(super) const EXIT: [(&str, &str); 4] = [
    ("0", "Done."),
    ("1", "It failed, or what was asked for did not succeed; the output says why."),
    ("2", "Wrong use: an argument that makes no sense."),
    ("3", "This kernel or these privileges cannot; the message names what is missing."),
];

pub(super) const EXIT_OF_AUDIT: [(&str, &str); 4] = [
    EXIT[0],
    ("1", "It failed, or the index is not right; the output has each difference."),
    EXIT[2],
    EXIT[3],
];

const LOG: (&str, &str) = ("SKREAP_LOG", "What is logged, as with --log.");
const SOCKET: [(&str, &str); 3] = [
    LOG,
    ("SKREAP_SOCKET", "The unix socket of the service, as with --socket."),
    (
        "RUNTIME_DIRECTORY, XDG_RUNTIME_DIR",
        "Where the socket is looked for if neither is given: $RUNTIME_DIRECTORY/skreap.sock, for a user other than root \
         $XDG_RUNTIME_DIR/skreap/skreap.sock if that is there, else /run/skreap/skreap.sock.",
    ),
];
const SOCKET_FILE: (&str, &str) = ("/run/skreap/skreap.sock", "The socket of the service of the machine.");
const PINS: (&str, &str) = (
    "/sys/fs/bpf/skreap",
    "Hooks and index, with serve --pin. They stay when the service ends; skreap unload removes them.",
);
const SETTINGS: (&str, &str) =
    ("/etc/default/skreap", "Arguments for the service that systemd starts (SKREAP_OPTS), and SKREAP_LOG.");

const OF_REPORTS: &str = "The service answers with a report: how many sockets were found, destroyed, skipped (and why), and \
    could not be destroyed (with their tuples). It is complete if no socket of the backend can have been missed; the exit \
    status is 1 if it is not, or if a socket could not be destroyed.";

pub(super) const PAGES: [Page; 11] = [
    Page {
        command: "skreap",
        more: &[
            "A load balancer that works on sockets translates a service address once, when a client calls connect() or \
             sendmsg(). If the backend it chose is deleted, clients that are connected keep talking to nothing. skreap \
             keeps an index of sockets by backend, in BPF maps that cgroup hooks fill, and on an event destroys exactly \
             the sockets of the backend that is gone, in whatever network namespace they are. Their owners get \
             ECONNABORTED and connect again, to a backend that lives.",
            "skreap serve is the service; the other commands ask it, or look at this machine. skreap probe says whether \
             this kernel can do it.",
        ],
        environment: &SOCKET,
        files: &[SOCKET_FILE, PINS, SETTINGS],
        examples: &[
            ("Is this kernel good enough?", "skreap probe"),
            ("Start the service, and let hooks and index outlive it:", "skreap serve --source unix --pin"),
            ("Who would be cut off if this backend went?", "skreap reap udp://10.0.0.1:53 --dry-run"),
            ("It is gone:", "skreap reap udp://10.0.0.1:53"),
        ],
        see: &["bpf(2)", "sock_diag(7)", "cgroups(7)"],
    },
    Page {
        command: "probe",
        more: &[
            "Nothing is guessed from a version: each program is loaded, each hook attached to a cgroup of its own, and a \
             private socket destroyed by each engine. What is needed and does not work is marked NO; no is something \
             that can be done without. The last lines show in which order the programs on the root cgroup run.",
        ],
        environment: &[LOG],
        files: &[],
        examples: &[
            ("What works here, and what is missing:", "skreap probe"),
            ("For a script:", "skreap probe --json | jq -r .engine"),
        ],
        see: &["skreap(1)", "skreap-serve(1)"],
    },
    Page {
        command: "serve",
        more: &[
            "Requests and answers are JSON, one object a line, over standard input and output or a unix socket; \
             /usr/share/doc/skreap/embedding.md has all of them. Every accepted request is answered, also when the \
             service is asked to end.",
            "At the start all capabilities are given up but CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN; CAP_SYS_ADMIN, \
             CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH are kept for the moments in which a network namespace or a cgroup \
             is looked for. A user other than root who has these six may run it.",
            "With --pin the hooks and the index are pinned on a bpf filesystem. They stay when the process ends, however \
             it ends, and the next serve --pin takes them over: no connect is missed in between.",
            "If a service manager started it (NOTIFY_SOCKET), it is told when the hooks are attached and all sockets \
             listen, how it goes on, and when it ends. To a watchdog it shows that it is alive only while events are \
             being worked off, so that one that is stuck is ended and started again.",
            "The first SIGTERM, SIGINT or SIGHUP ends it in good order: it reads no more, what it has accepted is done \
             and answered, and waits that --max-rate asks for are cut short. The second ends it at once.",
        ],
        environment: &[
            LOG,
            ("RUNTIME_DIRECTORY, XDG_RUNTIME_DIR", "Where --source unix puts its socket, see --source."),
            ("NOTIFY_SOCKET, WATCHDOG_USEC", "Set by systemd, see sd_notify(3)."),
        ],
        files: &[SOCKET_FILE, PINS, SETTINGS],
        examples: &[
            (
                "As the package does it, with metrics for Prometheus and a look at itself every ten minutes:",
                "skreap serve --source unix --pin --metrics --audit-interval 600",
            ),
            ("Another user may send requests:", "skreap serve --source unix --allow-uid nobody"),
            (
                "One event from standard input:",
                "echo '{\"id\":\"1\",\"type\":\"backend-deleted\",\"backend\":\"udp://10.0.0.1:53\"}' | skreap serve",
            ),
            (
                "Not more than 1000 sockets a second, and no event that would destroy more than 10000:",
                "skreap serve --source unix --max-rate 1000 --max-victims 10000",
            ),
        ],
        see: &["skreap(1)", "skreap-unload(1)", "skreap-reap(1)", "skreap-status(1)", "systemd.service(5)"],
    },
    Page {
        command: "unload",
        more: &[
            "Refused while a service holds the directory: end that first. Afterwards no socket is recorded any more. The \
             next service makes a new index and searches for the sockets that are connected by then, unless it has \
             --no-bootstrap; whom unconnected UDP sockets have sent to is forgotten.",
        ],
        environment: &[LOG],
        files: &[PINS],
        examples: &[
            ("After the service was ended for good:", "skreap unload"),
            ("From another directory:", "skreap unload --pin /sys/fs/bpf/test"),
        ],
        see: &["skreap(1)", "skreap-serve(1)"],
    },
    Page {
        command: "index",
        more: &[
            "For each backend, how many sockets are connected to it, how many have sent to it without connecting, and in \
             how many network namespaces they are. The whole index is walked for it; the service goes on meanwhile.",
            "UDP servers on this machine send to their clients from unconnected sockets. These clients are counted, and listed \
             only with --all. An address counts as such a client if its port is one that kernels give to sockets \
             (net.ipv4.ip_local_port_range), and only sockets with a port below that range have sent to it.",
        ],
        environment: &SOCKET,
        files: &[SOCKET_FILE],
        examples: &[
            ("The ten backends with the most sockets:", "skreap index --limit 10"),
            ("One of them:", "skreap index --backend udp://10.0.0.1:53"),
        ],
        see: &["skreap(1)", "skreap-top(1)", "skreap-audit(1)"],
    },
    Page {
        command: "status",
        more: &["It is answered beside the work on events, and delays none."],
        environment: &SOCKET,
        files: &[SOCKET_FILE],
        examples: &[
            ("One look:", "skreap status"),
            ("Are our hooks the last ones?", "skreap status --json | jq .order.last"),
        ],
        see: &["skreap(1)", "skreap-top(1)"],
    },
    Page {
        command: "audit",
        more: &[
            "Each difference is printed with its tuple: missed (a connected socket that no event would reach), wrong key \
             (recorded under another backend than its own), stale (recorded, and there is no such socket).",
        ],
        environment: &SOCKET,
        files: &[SOCKET_FILE],
        examples: &[
            ("Is the index right?", "skreap audit"),
            ("In a script:", "skreap audit --json | jq .agrees"),
        ],
        see: &["skreap(1)", "skreap-serve(1)"],
    },
    Page {
        command: "top",
        more: &[
            "A live view, drawn anew at each interval; q ends it, ? explains keys and columns. Where the output is no \
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
            "The load balancer must not choose the backend any more when this is called, or new clients come after the \
             walk.",
            "With --once no service is needed: the sockets there are are indexed, as at the start of a service, and nothing \
             stays attached. UDP sockets that only ever sent are not found then.",
            OF_REPORTS,
        ],
        environment: &SOCKET,
        files: &[SOCKET_FILE],
        examples: &[
            ("Who would be destroyed?", "skreap reap udp://10.0.0.1:53 --dry-run"),
            ("Two backends at once:", "skreap reap udp://10.0.0.1:53 tcp://[fd00::1]:80"),
            ("Without a service:", "skreap reap --once udp://10.0.0.1:53"),
        ],
        see: &["skreap(1)", "skreap-reconcile(1)"],
    },
    Page {
        command: "reconcile",
        more: &[
            "For a control plane that may have lost events. Each backend in the index that is not in the list counts as \
             deleted, so look with --dry-run first, and give the service --max-victims. An empty list is refused.",
            OF_REPORTS,
        ],
        environment: &SOCKET,
        files: &[SOCKET_FILE],
        examples: &[
            ("What would go?", "skreap reconcile --dry-run udp://10.0.0.1:53 udp://10.0.0.2:53"),
            ("A long list:", "cat living | skreap reconcile"),
        ],
        see: &["skreap(1)", "skreap-reap(1)"],
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
