#!/bin/bash
# What launch/tpu_pod.sh runs on each machine of a slice: trains with a chip's flags and says with which status it ended, which
# gcloud does not pass on. The number of the process stands in ~/mvgrpo.pid.
#
# bash launch/tpu_worker.sh --chip=v5p [--set=NAME=VALUE ...] -- --config=FILE --workdir=DIR [--config.key=value ...]
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 2
PYTHON=$HOME/venv/bin/python
[ -x "$PYTHON" ] || PYTHON=python3
OPTIONS=()
while [ "$1" != -- ]; do OPTIONS+=("$1") && shift; done
shift
if kill -0 "$(cat "$HOME/mvgrpo.pid" 2>/dev/null)" 2>/dev/null; then
    echo "process $(cat "$HOME/mvgrpo.pid") of another run is at work here" >&2
    echo "mvgrpo status 73"
    exit
fi
trap INTERRUPTED=1 HUP TERM # a broken connection ends no run
STATUS=2
if FLAGS=$("$PYTHON" -m launch.flags "${OPTIONS[@]}"); then
    eval "$FLAGS"
    "$PYTHON" -m mvgrpo_jax.main "$@" --distributed &
    PID=$! INTERRUPTED=1
    echo "$PID" >"$HOME/mvgrpo.pid"
    while [ -n "$INTERRUPTED" ]; do # a signal interrupts wait, and its status is not the run's
        INTERRUPTED=""
        wait "$PID" && STATUS=0 || STATUS=$?
    done
    rm -f "$HOME/mvgrpo.pid"
fi
echo "mvgrpo status $STATUS"
