# shellcheck shell=sh
# Debian's package lists of any suite, kept in the cache: the machine's own lists have other suites
# and must not be changed.

CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/skreap
KEYRING=/usr/share/keyrings/debian-archive-keyring.gpg

# The Debian release of this machine
machine_codename() {
	sed -n 's/^VERSION_CODENAME=//p' /etc/os-release
}

# sources_of SUITE...: these suites on the mirrors that the machine itself uses, as lines of a sources.list
sources_of() {
	codename=$(machine_codename)
	for suite; do
		case $suite in
		*-security) like=$codename-security ;;
		*) like=$codename ;;
		esac
		# shellcheck disable=SC2016 # apt's own variables
		mirror=$(apt-get indextargets --format '$(RELEASE) $(REPO_URI)' 'Created-By: Packages' 'Component: main' \
			'Origin: Debian' | sed -n "s/^$like //p" | head -n 1)
		[ -n "$mirror" ] || {
			echo "apt has no package lists of Debian's $like: run apt-get update" >&2
			return 1
		}
		echo "deb [signed-by=$KEYRING] $mirror $suite main"
	done
}

# use_suites SUITE...: limits apt to these suites, until use_machine
use_suites() {
	use_machine
	state=$CACHE/apt/$(echo "$*" | tr ' ' ,)
	mkdir -p "$state/lists/partial" "$state/archives/partial"
	sources_of "$@" >"$state/sources.list.$$" || return 1
	cmp -s "$state/sources.list.$$" "$state/sources.list" || rm -f "$state/updated"
	mv "$state/sources.list.$$" "$state/sources.list"
	cat >"$state/apt.conf" <<-END
		Dir::Etc::sourcelist "$state/sources.list";
		Dir::Etc::sourceparts "/dev/null";
		Dir::Etc::preferences "/dev/null";
		Dir::Etc::preferencesparts "/dev/null";
		Dir::State "$state";
		Dir::State::status "/dev/null";
		Dir::Cache "$state";
		APT::Sandbox::User "root";
	END
	export APT_CONFIG="$state/apt.conf"
	update_lists daily
}

use_machine() {
	unset APT_CONFIG
}

# update_lists daily|now: without a network the existing lists are used
update_lists() {
	state=${APT_CONFIG%/*}
	[ "$1" = daily ] && [ -n "$(find "$state/updated" -mmin -1440 2>/dev/null)" ] && return 0
	if apt-get -qq update >&2; then
		touch "$state/updated"
	elif [ -e "$state/updated" ]; then
		echo "apt-get update failed: going on with the lists of $(date -r "$state/updated" +%F)" >&2
	else
		echo "apt-get update failed for the suites in $state/sources.list" >&2
		return 1
	fi
}
