#!/bin/sh
# What a container of Hydra's image does, by its first argument; any other word is a program to run.
set -eu

case "${1:-}" in
node)
    shift
    exec hydra node run "$@" # becomes supervisord, process 1: SIGTERM ends its programs in order
    ;;
planner)
    shift
    exec hydra node run --planner "$@"
    ;;
init)
    # for an init container: while Consul is away (exit code 10), it is tried again
    while :; do
        code=0
        hydra "$@" || code=$?
        [ "$code" = 10 ] || exit "$code"
        sleep 1
    done
    ;;
agent)
    # Consul beside it in the same pod; what joins it to its servers comes as further arguments
    shift
    exec consul agent -config-file=/opt/hydra/handlers/_data/consul/agent.hcl "$@"
    ;;
server)
    shift
    exec consul agent -config-file=/opt/hydra/handlers/_data/consul/server.hcl "$@"
    ;;
ram)
    # for a privileged init container: a tmpfs of so many MiB on the node, below its root; writable by root alone
    folder="${HYDRA_ROOT:?}/volumes/ram"
    mkdir -p "$folder"
    if mountpoint -q "$folder"; then
        mount -o "remount,size=$2m" "$folder"
    else
        mount -t tmpfs -o "size=$2m,mode=0755,nosuid,nodev,noexec" hydra-ram "$folder"
    fi
    ;;
wait)
    # for an init container: until this pod has a view with data; whether it is ready is not asked
    : "${HYDRA_VIEW:?names the view of this pod}"
    echo "waiting for $HYDRA_VIEW"
    until [ -e "$HYDRA_VIEW/..data/." ]; do
        sleep 0.2
    done
    echo "$(ls "$HYDRA_VIEW") in $HYDRA_VIEW"
    ;;
*)
    exec "$@"
    ;;
esac
