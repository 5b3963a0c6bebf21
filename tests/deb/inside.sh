#!/bin/bash
# What tests/deb/run.sh has the throw-away machine do. Any command that fails is a failed test.
set -eEu
trap 'echo "FAILED at line $LINENO: $BASH_COMMAND"; journalctl --no-pager -o short-monotonic | tail -60' ERR
export DEBIAN_FRONTEND=noninteractive

fails() { if "$@" >/dev/null 2>&1; then echo "succeeded: $*"; return 1; fi; }
said() { echo "$1"; }
expect() { # expect WHAT IS SHOULD
	[ "$2" = "$3" ] || { echo "$1 is \"$2\" and not \"$3\""; return 1; }
}
# How many sockets the index knows, and programs of ours the root cgroup has
sockets() { skreap index | sed -n 's/^sockets \([0-9]*\), .*/\1/p'; }
hooks() { /tmp/skreap probe --cgroup /sys/fs/cgroup | grep -o 'skreap_[a-z]*' | wc -l; }

ip link set lo up
# One pre-existing socket, and after it one more, and one in a netns of its own.
exec 3<>/dev/udp/127.0.0.1/5353
dpkg -x /mnt/shared/skreap.deb /tmp/content
cp /tmp/content/usr/bin/skreap /tmp/skreap
before=$(hooks)

# The root cgroup here is a part of the machine's, which has to be named. The package's own settings stay as they are.
mkdir -p /etc/systemd/system/skreap.service.d
echo 'SKREAP_OPTS="--cgroup /sys/fs/cgroup --allow-uid skreap-watch"' >/etc/skreap-cgroup
printf '[Service]\nEnvironmentFile=/etc/skreap-cgroup\n' >/etc/systemd/system/skreap.service.d/cgroup.conf

dpkg -i /mnt/shared/skreap.deb
expect "the service" "$(systemctl is-active skreap)" active
expect "at boot it" "$(systemctl is-enabled skreap)" enabled
systemctl show -P StatusText skreap | grep -q '^engine netlink; '
said "installed and ready: $(systemctl show -P StatusText skreap)"
for page in skreap skreap-serve skreap-reap skreap-watch skreap-watch-etcd; do man -w "$page" >/dev/null; done
for file in bash-completion/completions/skreap zsh/vendor-completions/_skreap fish/vendor_completions.d/skreap.fish \
	bash-completion/completions/skreap-watch doc/skreap/examples/rules.example.toml doc/skreap/operating.md \
	doc/skreap/alerts.yaml doc/skreap/copyright; do
	test -s "/usr/share/$file" || test -s "/usr/share/$file.gz"
done

exec 4<>/dev/udp/127.0.0.1/5353
exec 5<>/dev/udp/127.0.0.1/5354
ip netns add other
ip -n other link set lo up
ip netns exec other bash -c 'exec 6<>/dev/udp/127.0.0.1/5353; exec sleep 1000' &
other=$!
until [ -e "/proc/$other/fd/6" ]; do sleep 0.05; done
expect "the index" "$(sockets)" 4
skreap audit

# Another process takes over, after a restart and after a kill.
pid=$(systemctl show -P MainPID skreap)
systemctl restart skreap
expect "the index after a restart" "$(sockets)" 4
second=$(systemctl show -P MainPID skreap)
[ "$pid" != "$second" ]
kill -9 "$second"
until [ "$(systemctl show -P NRestarts skreap)" = 1 ] && [ "$(systemctl is-active skreap)" = active ]; do sleep 0.1; done
expect "the index after a kill" "$(sockets)" 4

reaped=$(skreap reap udp://127.0.0.1:5353)
said "$reaped"
[[ $reaped = "udp://127.0.0.1:5353: 3 of 3 sockets destroyed "* ]]
fails sh -c 'echo x >&3'
fails sh -c 'echo x >&4'
expect "the other backend" "$(skreap index | awk '$1 ~ /^udp:/ { print $1, $2 }')" "udp://127.0.0.1:5354 1"

# The same version once more is an update: hooks and index stay.
dpkg -i /mnt/shared/skreap.deb
expect "the service after an update" "$(systemctl is-active skreap)" active
expect "the index after an update" "$(sockets)" 4
journalctl -u skreap -o cat >/tmp/log
expect "first starts" "$(grep -c ' pinned pins=' /tmp/log)" 1
expect "starts that took over" "$(grep -c 'taken over, with all sockets' /tmp/log)" 3
if grep -E ' (WARN|ERROR) ' /tmp/log; then
	echo "the service has complained"
	exit 1
fi
said "used: 3 of 4 sockets destroyed; taken over after a restart, a kill, an update"

# An owner holds the lock of its socket: the process that was to destroy that socket cannot end, and systemd waits for it
# for twice TimeoutStopSec=. The next one takes over; other backends are answered.
printf '[Service]\nTimeoutStopSec=2s\n' >/etc/systemd/system/skreap.service.d/stop.conf
systemctl daemon-reload
coproc holder { exec /mnt/shared/hold-lock 127.0.0.1:5355; }
read -r line <&"${holder[0]}"
said "$line"
exec 7<>/dev/udp/127.0.0.1/5356
fails skreap reap udp://127.0.0.1:5355
expect "held" "$(skreap status --json | grep -o '"held":{[^}]*}' | grep -o '"waiting":[0-9]*')" '"waiting":1'
stuck=$(systemctl show -P MainPID skreap)
since=$SECONDS
systemctl restart skreap
waited=$((SECONDS - since))
[ "$waited" -ge 4 ] && [ "$waited" -le 30 ]
expect "the service beside the one that cannot end" "$(systemctl is-active skreap)" active
grep -q '^State:.*zombie' "/proc/$stuck/status"
expect "another backend" "$(skreap reap udp://127.0.0.1:5356 | cut -d ' ' -f 1-4)" "udp://127.0.0.1:5356: 1 of 1"
eval "exec ${holder[1]}>&-"
until [ ! -e "/proc/$stuck" ]; do sleep 0.1; done
expect "a backend that has no sockets any more" "$(skreap reap udp://127.0.0.1:5355 | cut -d ' ' -f 1-4)" "udp://127.0.0.1:5355: 0 of 0"
said "a process that could not end was replaced after $waited s; it ended with the owner's send"

# The watcher has a user of its own, whom the service lets in. It runs only when somebody starts it.
expect "the watcher" "$(systemctl is-active skreap-watch || :)" inactive
expect "at boot the watcher" "$(systemctl is-enabled skreap-watch || :)" disabled
echo 'SKREAP_WATCH_OPTS="etcd --endpoints http://127.0.0.1:1 --metrics"' >/etc/default/skreap-watch
systemctl start skreap-watch
connected() { (exec 7<>/dev/tcp/127.0.0.1/9746 && printf 'GET /metrics HTTP/1.1\r\n\r\n' >&7 && grep -a connected <&7) 2>/dev/null; }
until connected | grep -q '^skreap_watch_connected 1$'; do sleep 0.1; done
expect "the watcher's user" "$(stat -c %U "/proc/$(systemctl show -P MainPID skreap-watch)")" skreap-watch
said "watched: as user skreap-watch, connected to the service"

dpkg -r skreap
expect "the watcher, removed" "$(systemctl is-active skreap-watch || :)" inactive
[ ! -e /sys/fs/bpf/skreap ]
expect "hooks left" "$(hooks)" "$before"
[ -e /etc/default/skreap ]
dpkg -P skreap
[ ! -e /etc/default/skreap ] && [ ! -e /etc/default/skreap-watch ] && [ ! -e /usr/bin/skreap ] && [ ! -e /run/skreap ]
rm -r /etc/systemd/system/skreap.service.d /etc/skreap-cgroup
systemctl daemon-reload
fails systemctl cat skreap
fails systemctl cat skreap-watch
kill "$other"
said "removed: no hooks, no pins, no files"
echo passed >/mnt/shared/verdict
