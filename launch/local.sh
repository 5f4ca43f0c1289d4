#!/bin/bash
# Trains with several processes of several CPU devices on this machine: what a pod does, without one.
#
#   bash launch/local.sh --processes 2 --devices 2 -- --config=configs/flux_nano.py --workdir=runs/a [--config.key=value ...]
#
# --processes N   processes (2)
# --devices M     CPU devices of each (1)
# --logs DIR      what all but the first process print goes to DIR/process-I.log, and nowhere without it
# --python FILE   the interpreter (python)
# --dry_run       prints the commands and starts nothing
#
# SIGTERM and Ctrl-C ask all of them to stop and to save, the second one kills them. The status is the highest of theirs.
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=launch/common.sh
source "$ROOT/launch/common.sh"

PROCESSES=2 DEVICES=1 LOGS="" PYTHON=python
while [ $# -gt 0 ] && [ "$1" != -- ]; do
    [[ $1 != --*=* ]] || set -- "${1%%=*}" "${1#*=}" "${@:2}"
    case "$1" in
        --processes) needs "$@" && PROCESSES=$2 && shift ;;
        --devices) needs "$@" && DEVICES=$2 && shift ;;
        --logs) needs "$@" && LOGS=$2 && shift ;;
        --python) needs "$@" && PYTHON=$2 && shift ;;
        --dry_run) DRY_RUN=1 ;;
        -h | --help) usage "$0" && exit ;;
        *) fail "unknown option $1; those of training come after --" ;;
    esac
    shift
done
[ $# -gt 1 ] || fail "nothing to train: give -- --config=configs/NAME.py --workdir=DIR"
shift
whole --processes "$PROCESSES" 1
whole --devices "$DEVICES" 1

PORT=$((20000 + RANDOM % 10000)) # below the ports that Linux hands out by itself
[ -z "$LOGS" ] || run mkdir -p "$LOGS"
COMMAND=(env JAX_PLATFORMS=cpu "XLA_FLAGS=${XLA_FLAGS:+$XLA_FLAGS }--xla_force_host_platform_device_count=$DEVICES")
COMMAND+=("$PYTHON" -m mvgrpo_jax.main "$@" "--config.mesh.devices=$((PROCESSES * DEVICES))")
COMMAND+=("--coordinator=127.0.0.1:$PORT" "--processes=$PROCESSES")
PIDS=()
for ((i = PROCESSES - 1; i >= 0; i--)); do
    if [ -n "$DRY_RUN" ]; then
        quoted "${COMMAND[@]}" "--process_id=$i"
        continue
    fi
    OUT=/dev/null
    [ -z "$LOGS" ] || OUT=$LOGS/process-$i.log
    if [ "$i" = 0 ]; then
        "${COMMAND[@]}" --process_id=0 &
    else
        "${COMMAND[@]}" "--process_id=$i" >"$OUT" 2>&1 &
    fi
    PIDS+=($!)
done
[ -z "$DRY_RUN" ] || exit 0

ASKED="" INTERRUPTED=""
# shellcheck disable=SC2317  # the trap calls it
stop() {
    kill -"${ASKED:-TERM}" "${PIDS[@]}" 2>/dev/null || true
    ASKED=KILL INTERRUPTED=1
}
trap stop TERM INT
STATUS=0
for pid in "${PIDS[@]}"; do
    while true; do # a signal interrupts wait, and its status is not the process's
        INTERRUPTED=""
        wait "$pid" && CODE=0 || CODE=$?
        [ -n "$INTERRUPTED" ] || break
    done
    [ "$CODE" -le "$STATUS" ] || STATUS=$CODE
done
exit "$STATUS"
