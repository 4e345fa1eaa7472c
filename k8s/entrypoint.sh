#!/bin/sh
# What a container of Hydra's image does, by its first argument; any other word is a program to run.
set -eu

# Process 1 has no handler for SIGTERM but this: what runs beside the shell ends, and then the container.
end_at_sigterm() {
    trap 'kill ${!-} 2>/dev/null || :; wait; exit 143' TERM
}

# The device of the tmpfs that is mounted at $1 on top of all else, and whether it is `ro` or `rw`; empty for none.
tmpfs_at() {
    seen=""
    while read -r _ _ device top path options rest; do
        [ "$path" = "$1" ] || continue
        case "$top $rest" in
        "/ "*"- tmpfs "*) seen="$device ${options%%,*}" ;;
        *) seen="" ;;
        esac
    done </proc/self/mountinfo
    echo "$seen"
}

# Mount what is at $1 also at $2, `ro` or `rw` ($3). It comes there with its flags: the copies that appear in pods at
# that moment keep those for good. So it is made aside first, where nobody gets a copy.
bind() {
    mount --make-private /
    mount --bind "$1" /mnt
    mount --make-private /mnt
    mount -o "remount,bind,$3,nosuid,nodev,noexec" /mnt
    mount --bind /mnt "$2"
    umount /mnt
}

# $1 is written, in memory, and what pods see at $2 is the same, for reading. Completes what is there.
mount_ram() {
    mkdir -p "$1" "$2"
    if ! is_memory "$1"; then
        if is_memory "$2"; then
            bind "$2" "$1" rw # its data stays
        else
            mount -t tmpfs -o "size=$3m,mode=0755,nosuid,nodev,noexec" hydra-ram "$1"
        fi
    fi
    mount -o "remount,size=$3m" "$1"
    ram_is_mounted "$1" "$2" || bind "$1" "$2" ro
}

is_memory() {
    [ -n "$(tmpfs_at "$1")" ]
}

ram_is_mounted() {
    written="$(tmpfs_at "$1")"
    is_memory "$1" && [ "$(tmpfs_at "$2")" = "${written% *} ro" ]
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
    # for an init container: memory of the node beside its root, which Hydra alone writes, and below the root the same
    # for reading. With a size in MiB, which takes privileges, it is mounted; without, the node does that.
    store="${HYDRA_ROOT:?}-ram" folder="$HYDRA_ROOT/volumes/ram"
    if [ -n "${2:-}" ]; then
        mount_ram "$store" "$folder" "$2"
        exit
    fi
    end_at_sigterm
    await "a tmpfs at $store" is_memory "$store"
    await "the same at $folder, read-only" ram_is_mounted "$store" "$folder"
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
