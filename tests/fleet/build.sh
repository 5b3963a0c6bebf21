#!/bin/sh
# Builds kube-apiserver and kube-controller-manager once from Debian's source package, and prints the folder with both.
#
#   tests/fleet/build.sh
#
# The newest Debian whose source package has the servers is bookworm (Kubernetes 1.20.2; later ones hold kubectl alone). The
# compiler and a repaired library come from bookworm too, and are unpacked in the cache: nothing is installed. Needs apt
# sources with Debian's archive, dpkg-dev, 3 GB of disk while it builds, and 5 minutes of two idle cores.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=tests/vm/apt.sh
. "$here/../vm/apt.sh"

SUITE=bookworm
VERSION=1.20.2
SOURCE=1.20.5+really1.20.2
GO=1.19

die() {
	echo "$*" >&2
	exit 1
}

kept=$CACHE/kubernetes/$VERSION
work=$CACHE/kubernetes/work
mkdir -p "$kept" "$work"
exec 9>"$CACHE/kubernetes/lock"
flock 9
if [ -x "$kept/kube-apiserver" ] && [ -x "$kept/kube-controller-manager" ]; then
	echo "$kept"
	exit 0
fi

# Sources are in lists of their own: `use_suites` has those of packages.
use_source() {
	use_suites "$SUITE" || die "no package lists of $SUITE"
	state=$CACHE/apt/$SUITE-source
	mkdir -p "$state/lists/partial"
	sources_of_machine=$(use_machine && sources_of "$SUITE") || exit 1
	echo "$sources_of_machine" | sed 's/^deb /deb-src /' >"$state/sources.list"
	sed "s|$CACHE/apt/$SUITE|$state|" "$APT_CONFIG" >"$state/apt.conf"
	packages_config=$APT_CONFIG
	APT_CONFIG=$state/apt.conf
	update_lists daily
}

# unpack PACKAGE...: bookworm's packages, below $work/tools
unpack() {
	for package; do
		[ -e "$work/tools/$package" ] && continue
		rm -rf "$work/download"
		mkdir -p "$work/download" "$work/tools"
		(cd "$work/download" && APT_CONFIG=$packages_config apt-get download -qq "$package") >&2
		dpkg -x "$work"/download/*.deb "$work/tools"
		touch "$work/tools/$package"
	done
}

# The tree as Debian has it, in a GOPATH
fetch_source() {
	[ -e "$tree/.fetched" ] && return 0
	rm -rf "$tree" "$work/source"
	mkdir -p "${tree%/*}" "$work/source"
	(cd "$work/source" && apt-get source -qq --download-only kubernetes) >&2
	dpkg-source --no-check -x "$work"/source/kubernetes_*.dsc "$tree" >&2
	case $(ls "$work/source"/*.dsc) in *"$SOURCE"*) ;; *) die "the source package of $SUITE is no longer $SOURCE" ;; esac
	touch "$tree/.fetched"
}

# Kubernetes' own generator makes a file that Debian's tarball lacks: of all packages that ask for it.
generate_openapi() {
	out=$tree/pkg/generated/openapi/zz_generated.openapi.go
	[ -s "$out" ] && return 0
	go build -o "$work/openapi-gen" ./vendor/k8s.io/kube-openapi/cmd/openapi-gen
	packages=$(grep -rl --include='*.go' '+k8s:openapi-gen=' pkg cmd staging/src/k8s.io |
		grep -vE 'sample-|code-generator|/testdata/|_test.go|zz_generated' | xargs -n 1 dirname | sort -u |
		sed -e 's|^staging/src/|k8s.io/kubernetes/vendor/|' -e 's|^\(pkg\|cmd\)/|k8s.io/kubernetes/\1/|' | paste -sd ,)
	mkdir -p "$work/generated"
	"$work/openapi-gen" -O zz_generated.openapi --go-header-file hack/boilerplate/boilerplate.generatego.txt \
		--output-base "$work/generated" -p k8s.io/kubernetes/pkg/generated/openapi \
		-r "$work/generated/violations" -i "$packages" >&2
	sed 's|"k8s.io/kubernetes/vendor/|"|; s|ref("k8s.io/kubernetes/vendor/|ref("|g; s|k8s.io/kubernetes/vendor/||g' \
		"$work/generated/k8s.io/kubernetes/pkg/generated/openapi/zz_generated.openapi.go" >"$out.new"
	mv "$out.new" "$out"
}

tree=$work/go/src/k8s.io/kubernetes
use_source
unpack "golang-$GO-go" "golang-$GO-src" golang-github-modern-go-reflect2-dev
fetch_source

# The one in the tree is too old for Go 1.18 and later: the server starts, and dies at a later request.
rm -rf "$tree/vendor/github.com/modern-go/reflect2"
cp -r "$work/tools/usr/share/gocode/src/github.com/modern-go/reflect2" "$tree/vendor/github.com/modern-go/"

export GOROOT="$work/tools/usr/lib/go-$GO" GOPATH="$work/go" GOCACHE="$work/cache" GO111MODULE=off CGO_ENABLED=0
export GOFLAGS="-trimpath" GOTOOLCHAIN=local
PATH=$GOROOT/bin:$PATH
cd "$tree"
generate_openapi
for server in kube-apiserver kube-controller-manager; do
	[ -x "$kept/$server" ] || {
		go build -ldflags "-s -w -X k8s.io/component-base/version.gitVersion=v$VERSION \
			-X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=20" \
			-o "$kept/$server.new" "./cmd/$server" >&2
		mv "$kept/$server.new" "$kept/$server"
	}
done
rm -rf "$work"
echo "$kept"
