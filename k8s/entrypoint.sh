#!/bin/sh
# What a container of Hydra's image does, by its first argument; any other word is a program to run.
set -eu

# Process 1 has no handler for SIGTERM but this: what runs beside the shell ends, and then the container.
end_at_sigterm() {
    trap 'kill ${!-} 2>/dev/null || :; wait; exit 143' TERM
}

# Wait for what $1 names, until the command that follows succeeds.
await() {
    echo "waiting for $1"
    shift
    until "$@"; do
        sleep 0.2 &
        wait $!
    done
}

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
    end_at_sigterm
    while :; do
        code=0
        hydra "$@" &
        wait $! || code=$?
        [ "$code" = 10 ] || exit "$code"
        sleep 1 &
        wait $!
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
    end_at_sigterm
    await "$HYDRA_VIEW" [ -e "$HYDRA_VIEW/..data/." ]
    echo "$(ls "$HYDRA_VIEW") in $HYDRA_VIEW"
    ;;
*)
    exec "$@"
    ;;
esac
