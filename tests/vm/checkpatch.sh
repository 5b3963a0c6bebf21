#!/bin/sh
# tests/vm/checkpatch.sh DIRECTORY   runs the kernel's own style check, from Debian's package of the
#                                    kernel's source
set -eu

here=$(cd "$(dirname "$0")" && pwd)
. "$here/apt.sh"

scripts=$CACHE/checkpatch
if [ ! -e "$scripts/checkpatch.pl" ]; then
	use_suites "$(machine_codename)"
	package=$(apt-cache depends linux-source | sed -n 's/^ *Depends: \(linux-source-.*\)$/\1/p')
	echo "fetching $package into $scripts" >&2
	mkdir -p "$scripts/deb"
	(cd "$scripts/deb" && apt-get -qq download "$package")
	dpkg-deb --fsys-tarfile "$scripts"/deb/*.deb | tar -x -O --wildcards './usr/src/*.tar.xz' |
		tar -x -J -C "$scripts" --strip-components 2 --wildcards '*/scripts/checkpatch.pl' \
			'*/scripts/spelling.txt' '*/scripts/const_structs.checkpatch'
	rm -r "$scripts/deb"
fi
# compat.h exists for comparisons of versions, which the kernel tree would not have.
exec perl "$scripts/checkpatch.pl" --no-tree --strict --terse --show-types \
	--ignore FILE_PATH_CHANGES,LINUX_VERSION_CODE,CONSTANT_COMPARISON --file "$1"/*.[ch]
