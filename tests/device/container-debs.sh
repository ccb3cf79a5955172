#!/bin/sh
# Downloads Debian's Podman with the libraries that a bare machine may lack, for tests/device/container.sh. Usage: container-debs.sh FOLDER
set -eu
mkdir -p "$1" && cd "$1"
apt-get download podman conmon crun runc catatonit golang-github-containers-common golang-github-containers-image libgpgme11 libassuan0 libsubid4 \
  libdevmapper1.02.1 libseccomp2 libyajl2 libcap2 libsystemd0 libglib2.0-0 libgpg-error0 libselinux1 libudev1 libaudit1 libcap-ng0 libacl1 libattr1 \
  libgcrypt20 liblzma5 liblz4-1 libzstd1 libprotobuf-c1 libsqlite3-0
du -sh .
