#!/bin/sh
# Unpacks Debian packages of bookworm in the cache, and prints the folder: nothing is installed, and no service started.
#
#   tests/fleet/unpack.sh PACKAGE...
set -eu

here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=tests/vm/apt.sh
. "$here/../vm/apt.sh"

into=$CACHE/packages
mkdir -p "$into"
exec 9>"$into/lock"
flock 9
for package; do
	[ ! -e "$into/.$package" ] || continue
	use_suites bookworm bookworm-security
	rm -rf "$into/download"
	mkdir "$into/download"
	(cd "$into/download" && apt-get download -qq "$package") >&2
	dpkg -x "$into/download/"*.deb "$into"
	rm -r "$into/download"
	touch "$into/.$package"
done
echo "$into"
