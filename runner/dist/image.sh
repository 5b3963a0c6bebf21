#!/bin/sh
# Makes a container image of the static programs `skreap` and `skreap-watch`, without a daemon and without a base image.
#
#   runner/dist/image.sh FOLDER OUT.tar [VERSION]
#
# FOLDER has the programs. OUT.tar is an OCI image layout: `skopeo copy oci-archive:OUT.tar …`, `ctr images import`,
# `podman load` and `docker load` read it. The same programs give the same bytes.
set -eu

programs=$(cd "$1" && pwd)
out=$2
version=${3:-latest}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# blob FILE: moves it among the blobs; prints its descriptor without the media type
blob() {
	sum=$(sha256sum "$1" | cut -d ' ' -f 1)
	size=$(wc -c <"$1")
	mv "$1" "$layout/blobs/sha256/$sum"
	printf '"digest":"sha256:%s","size":%d' "$sum" "$size"
}

# archive FOLDER: the same bytes for the same content, whoever makes it and when
archive() {
	tar --create --directory "$1" --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner --format=gnu .
}

layout=$work/layout
mkdir -p "$layout/blobs/sha256" "$work/root/usr/bin" "$work/root/etc"
for program in skreap skreap-watch; do
	if readelf --program-headers "$programs/$program" | grep -q INTERP; then
		echo "$programs/$program needs shared libraries: build it as make image does" >&2
		exit 1
	fi
	strip -o "$work/root/usr/bin/$program" "$programs/$program"
	chmod 755 "$work/root/usr/bin/$program"
done
# Names of the users in logs; the programs do not need them.
printf 'root:x:0:0:root:/:/usr/sbin/nologin\nskreap-watch:x:65532:65532::/:/usr/sbin/nologin\n' >"$work/root/etc/passwd"
printf 'root:x:0:\nskreap-watch:x:65532:\n' >"$work/root/etc/group"
chmod 644 "$work/root/etc/passwd" "$work/root/etc/group"
chmod 755 "$work/root" "$work/root/usr" "$work/root/usr/bin" "$work/root/etc"

archive "$work/root" >"$work/layer.tar"
content=$(sha256sum "$work/layer.tar" | cut -d ' ' -f 1)
gzip --no-name --best "$work/layer.tar"
layer=$(blob "$work/layer.tar.gz")

# No entry point: a pod names the command. Without privileges unless the pod says otherwise.
cat >"$work/config" <<END
{"architecture":"amd64","os":"linux",
"config":{"User":"65532:65532","Env":["PATH=/usr/bin"],"Cmd":["skreap-watch","--help"],
"Labels":{"org.opencontainers.image.title":"skreap","org.opencontainers.image.version":"$version",
"org.opencontainers.image.licenses":"MIT OR Apache-2.0"}},
"rootfs":{"type":"layers","diff_ids":["sha256:$content"]}}
END
config=$(blob "$work/config")
oci=application/vnd.oci.image
cat >"$work/manifest" <<END
{"schemaVersion":2,"mediaType":"$oci.manifest.v1+json",
"config":{"mediaType":"$oci.config.v1+json",$config},
"layers":[{"mediaType":"$oci.layer.v1.tar+gzip",$layer}]}
END
manifest=$(blob "$work/manifest")
cat >"$layout/index.json" <<END
{"schemaVersion":2,"manifests":[{"mediaType":"$oci.manifest.v1+json",$manifest,
"platform":{"architecture":"amd64","os":"linux"},
"annotations":{"org.opencontainers.image.ref.name":"$version","io.containerd.image.name":"docker.io/library/skreap:$version"}}]}
END
printf '{"imageLayoutVersion":"1.0.0"}' >"$layout/oci-layout"

mkdir -p "$(dirname "$out")"
archive "$layout" >"$out.new"
mv "$out.new" "$out"
echo "$out: $(wc -c <"$out") bytes, sha256:$(echo "$manifest" | cut -d : -f 3 | cut -d '"' -f 1)"
