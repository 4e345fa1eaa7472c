#!/bin/sh
# What tests/kube needs beside the environment of `make setup`: Debian's packages, and the programs of Kubernetes.
# `make test-kube` runs it; as root, since the test cluster makes network namespaces and mounts.
set -eu

cd "$(dirname "$0")/../.."
# etcd and a container runtime; what wires pods and Services; what makes images without pulling any; a Docker
# daemon, for one test of the image by itself
packages="etcd-server containerd runc containernetworking-plugins iptables iproute2 conntrack"
packages="$packages docker.io buildah mmdebstrap busybox-static curl openssl util-linux"

if [ "$(id -u)" != 0 ]; then
    echo "make test-kube needs root: it makes network namespaces, mounts and control groups." >&2
    exit 1
fi
missing=""
for name in $packages; do
    dpkg-query --show --showformat='${Status}' "$name" 2>/dev/null | grep -q "ok installed" || missing="$missing $name"
done
if [ -n "$missing" ]; then
    if ! command -v apt-get >/dev/null; then
        echo "make test-kube runs on Debian and its like; these packages are missing:$missing" >&2
        exit 1
    fi
    echo "installing$missing" >&2
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
fi
exec nice -n 10 .venv/bin/python tools/programs.py all kubernetes >/dev/null
