#!/bin/sh
# make setup: the virtual environment of this checkout, as the lock file says, and the external programs.
# Stamps are written last, so what an interruption left half-made is made again from nothing.
set -eu

cd "$(dirname "$0")/.."
python=${1:-}
made=.venv/stamp-made
locked=.venv/stamp-lock
installed=.venv/stamp-project
pip=".venv/bin/python -m pip --quiet --disable-pip-version-check"

say() { echo "$*" >&2; }
holds() { [ "$(cat "$1" 2>/dev/null)" = "$2" ]; }

if [ -z "$python" ]; then
    say "Python 3.11 or newer is needed, and none of python3, python3.11 ... python3.14 on PATH is one."
    exit 1
fi

# With .venv activated, python3 is the one in .venv, which may be about to go: take the one that it was made with.
python=$("$python" -c 'import sys; print(getattr(sys, "_base_executable", sys.executable))')

# One set-up of a checkout at a time: two would tear down each other's environment.
exec 9<.
if ! "$python" -c 'import fcntl; fcntl.flock(9, fcntl.LOCK_EX | fcntl.LOCK_NB)' 2>/dev/null; then
    say "environment: another set-up of this checkout is running, waiting for that"
    "$python" -c 'import fcntl; fcntl.flock(9, fcntl.LOCK_EX)'
fi

# Where it lies is noted, as a checkout that was moved needs a new environment; and it is asked to run, as a
# Python that was removed leaves its environment in place, but dead.
if ! holds $made "$(pwd)" || ! .venv/bin/python -c '' 2>/dev/null; then
    if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        say "$python cannot make virtual environments: its modules venv and ensurepip are missing."
        say "On Debian and Ubuntu: apt-get install python3-venv"
        exit 1
    fi
    say "environment: making .venv with $("$python" --version)"
    rm -rf .venv
    "$python" -m venv .venv
fi

lock="$(cksum <requirements.lock)"
if ! holds $locked "$lock"; then
    say "environment: installing what requirements.lock names (about half a minute)"
    rm -f $made # pip takes a package that it was stopped in the middle of for an installed one
    $pip install --require-hashes -r requirements.lock
    printf '%s\n' "$lock" >$locked
    pwd >$made
fi

project="$(cksum <setup.py)"
if ! holds $installed "$project" || [ ! -x .venv/bin/hydra ] || [ ! -x .venv/bin/hydra-handler ]; then
    say "environment: installing hydra from this checkout"
    $pip install --no-deps --no-build-isolation --editable .
    $pip check >&2
    printf '%s\n' "$project" >$installed
    say "environment: ready"
fi

exec 9<&-
exec .venv/bin/python tools/programs.py >/dev/null
