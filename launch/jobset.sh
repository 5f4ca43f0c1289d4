#!/bin/bash
# Applies the JobSet of launch/jobset.py with kubectl, and follows the run to its end:
#
#   bash launch/jobset.sh --chip v5p --topology 4x4x4 --image IMAGE --name flux -- \
#       --config=configs/mvgrpo_flux.py --workdir=gs://bucket/runs/flux [--config.key=value ...]
#
# --namespace NS    of the cluster (kubectl's own)
# --name NAME       of the JobSet (trainer)
# --spot            on spot machines (TPU)
# --detach          does not follow
# --python FILE     the interpreter (python)
# --dry_run         prints the manifest and every command, and starts nothing
# All other options are those of launch/jobset.py.
#
# A JobSet of this name that is at work is followed; one that is over is replaced. Ctrl-C ends the following, not the run. The
# status is 0 at the end of the run, 1 or 2 where an error or a mistake ended it.
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=launch/common.sh
source "$ROOT/launch/common.sh"

KUBECTL=(kubectl) NAME=trainer DETACH="" PYTHON=python GIVEN=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do
    [[ $1 != --*=* ]] || set -- "${1%%=*}" "${1#*=}" "${@:2}"
    case "$1" in
        --dry_run) DRY_RUN=1 ;;
        --detach) DETACH=1 ;;
        -h | --help) usage "$0" && exit ;;
        --namespace) needs "$@" && KUBECTL+=("--namespace=$2") && shift ;;
        --python) needs "$@" && PYTHON=$2 && shift ;;
        --name) needs "$@" && NAME=$2 && GIVEN+=("--name=$2") && shift ;;
        --spot) GIVEN+=("$1") ;;
        *) needs "$@" && GIVEN+=("$1=$2") && shift ;;
    esac
    shift
done
[ $# -gt 1 ] || fail "nothing to train: give -- --config=configs/NAME.py --workdir=DIR"
MANIFEST=$(cd "$ROOT" && "$PYTHON" -m launch.jobset "${GIVEN[@]}" "$@") || exit 2

OF_IT="--selector=jobset.sigs.k8s.io/jobset-name=$NAME"
STATE=("${KUBECTL[@]}" get jobset "$NAME" --ignore-not-found "--output=jsonpath=at {.status.terminalState} {.status.restarts}")
CODES=("${KUBECTL[@]}" get pods "$OF_IT")
CODES+=("--output=jsonpath={range .items[*]}{.status.containerStatuses[0].state.terminated.exitCode}{'\n'}{end}")
LOGS=("${KUBECTL[@]}" logs "$OF_IT" --prefix --tail=30 --max-log-requests=64)
DELETE=("${KUBECTL[@]}" delete jobset "$NAME" --wait)
if [ -n "$DRY_RUN" ]; then
    quoted "${STATE[@]}"
    printf '%s <<END\n%s\nEND\n' "$(quoted "${KUBECTL[@]}" create --filename=-)" "$MANIFEST"
    [ -n "$DETACH" ] || quoted "${STATE[@]}"
    exit
fi

say() { printf '%s %s\n' "$(date '+%F %T')" "$*" >&2; }
# What the cluster says: 'at', then Completed or Failed, then how often it was started again; nothing where it has none.
read -ra NOW <<<"$("${STATE[@]}")"
if [ "${#NOW[@]}" = 0 ]; then
    printf '%s\n' "$MANIFEST" | "${KUBECTL[@]}" create --filename=- || exit 1
elif [[ ${NOW[1]:-} == [CF]* ]]; then
    say "$NAME is over (${NOW[1]}): it is replaced"
    "${DELETE[@]}"
    printf '%s\n' "$MANIFEST" | "${KUBECTL[@]}" create --filename=- || exit 1
else
    say "$NAME is there already and at work"
fi
[ -z "$DETACH" ] || exit 0

trap 'say "not followed any more; the run goes on until: $(quoted "${DELETE[@]}")"; exit 75' INT TERM
RESTARTS=0 LOST=0
while true; do
    if ! SAID=$("${STATE[@]}"); then # a cluster that does not answer for a while
        LOST=$((LOST + 1))
        [ "$LOST" -lt 20 ] || { say "error: the cluster does not answer; the run may go on" && exit 1; }
    else
        LOST=0
        read -ra NOW <<<"$SAID"
        [ "${#NOW[@]}" -gt 0 ] || { say "error: $NAME was deleted" && exit 1; }
        case "${NOW[1]:-}" in
            Completed) say "$NAME is done" && exit 0 ;;
            Failed) break ;;
        esac
        COUNT=${NOW[-1]}
        if [[ $COUNT =~ ^[0-9]+$ ]] && [ "$COUNT" -gt "$RESTARTS" ]; then
            say "$NAME was taken down and starts again, for the ${COUNT}th time"
            RESTARTS=$COUNT
        fi
    fi
    sleep 30 &
    wait $!
done
"${LOGS[@]}" || true
CODE=$("${CODES[@]}" | grep -x '[12]' | sort -n | tail -1) || true
say "error: $NAME failed${CODE:+ with status $CODE}; its pods stay until: $(quoted "${DELETE[@]}")"
exit "${CODE:-1}"
