#!/bin/bash
# Trains on a TPU slice of Google Cloud, asked for as a queued resource:
#
#   bash launch/tpu_pod.sh --type v5p-64 --zone us-east5-a --project mine --name flux -- \
#       --config=configs/mvgrpo_flux.py --workdir=gs://bucket/runs/flux [--config.key=value ...]
#
# --type TYPE          accelerator type: v5p-N (N cores, two a chip), v5litepod-N or v6e-N (N chips)
# --zone, --project    where, and who pays (ZONE, PROJECT of the environment)
# --name NAME          of the queued resource and of its node (the workdir's last part)
# --spot               may be taken away at any time, for less
# --hours H            how long the request may wait in the queue (24)
# --runtime VERSION    the machines' image (that of the type)
# --set NAME=VALUE     a flag instead of that of launch/flags.py; may be repeated
# --restarts R         how often the run may be started again (20)
# --install COMMAND    what each machine does in the home folder before the first start, beside this commit in ./mvgrpo_jax
#                      (a virtual environment ./venv with the extras tpu and gcs)
# --grace S            seconds that a run has to save when this script is stopped (600)
# --keep               leaves the slice there at the end, for the next run of the same name; it costs until it is deleted
# --dry_run            prints every command and starts nothing
#
# What is there already under this name is used. The slice is given back when the run ends or fails, when this script is
# stopped (SIGTERM or Ctrl-C: the run saves first; a second one does not wait), and when asking for it fails. A slice that
# was taken away is asked for again. The status is the run's: 0, 2 a mistake, 1 an error, 75 stopped before the end.
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=launch/common.sh
source "$ROOT/launch/common.sh"

TYPE="" ZONE=${ZONE:-} PROJECT=${PROJECT:-} NAME="" SPOT=() HOURS=24 RUNTIME="" SETS=() RESTARTS=20 GRACE=600 KEEP=""
INSTALL="[ -x venv/bin/python ] || { sudo apt-get -yqq install python3.11-venv && python3.11 -m venv venv; }; "
INSTALL+="venv/bin/pip install -q './mvgrpo_jax[tpu,gcs]'"
while [ $# -gt 0 ] && [ "$1" != -- ]; do
    [[ $1 != --*=* ]] || set -- "${1%%=*}" "${1#*=}" "${@:2}"
    case "$1" in
        --dry_run) DRY_RUN=1 ;;
        --keep) KEEP=1 ;;
        --spot) SPOT=(--spot) ;;
        -h | --help) usage "$0" && exit ;;
        --type) needs "$@" && TYPE=$2 && shift ;;
        --zone) needs "$@" && ZONE=$2 && shift ;;
        --project) needs "$@" && PROJECT=$2 && shift ;;
        --name) needs "$@" && NAME=$2 && shift ;;
        --hours) needs "$@" && HOURS=$2 && shift ;;
        --runtime) needs "$@" && RUNTIME=$2 && shift ;;
        --set) needs "$@" && SETS+=("--set=$2") && shift ;;
        --restarts) needs "$@" && RESTARTS=$2 && shift ;;
        --install) needs "$@" && INSTALL=$2 && shift ;;
        --grace) needs "$@" && GRACE=$2 && shift ;;
        *) fail "unknown option $1; those of training come after --" ;;
    esac
    shift
done
[ $# -gt 1 ] || fail "nothing to train: give -- --config=configs/NAME.py --workdir=gs://BUCKET/DIR"
shift
[ -n "$ZONE" ] || fail "no zone: give --zone, or ZONE in the environment"
[ -n "$PROJECT" ] || fail "no project: give --project, or PROJECT in the environment"
whole --hours "$HOURS" 1
whole --restarts "$RESTARTS" 0
whole --grace "$GRACE" 1
case "$TYPE" in # JAX sees one device a chip
    v5p-*) CHIP=v5p DEVICES=${TYPE##*-} RUNTIME=${RUNTIME:-v2-alpha-tpuv5} ;;
    v5litepod-*) CHIP=v5e DEVICES=${TYPE##*-} RUNTIME=${RUNTIME:-v2-alpha-tpuv5-lite} ;;
    v6e-*) CHIP=v6e DEVICES=${TYPE##*-} RUNTIME=${RUNTIME:-v2-alpha-tpuv6e} ;;
    *) fail "--type $TYPE: expected v5p-N, v5litepod-N or v6e-N" ;;
esac
whole --type "$DEVICES" 1
[ "$CHIP" != v5p ] || DEVICES=$((DEVICES / 2))
WORKDIR=$(workdir_of "$@") || fail "no workdir: give --workdir=gs://BUCKET/DIR"
NAME=${NAME:-$(basename "$WORKDIR")}

PLACE=("--zone=$ZONE" "--project=$PROJECT")
QUEUE=(gcloud compute tpus queued-resources)
VM=(gcloud compute tpus tpu-vm)
CREATE=("${QUEUE[@]}" create "$NAME" "--node-id=$NAME" "${PLACE[@]}" "--accelerator-type=$TYPE" "--runtime-version=$RUNTIME")
CREATE+=("--valid-until-duration=${HOURS}h" "${SPOT[@]}")
DELETE=("${QUEUE[@]}" delete "$NAME" "${PLACE[@]}" --force --quiet)
DESCRIBE=("${QUEUE[@]}" describe "$NAME" "${PLACE[@]}" "--format=value(state.state)")
PACK=(git -C "$ROOT" archive --format=tar.gz --prefix=mvgrpo_jax/ HEAD)
UNPACK="tar -xzf mvgrpo_jax.tar.gz && $INSTALL"
TRAIN="bash mvgrpo_jax/launch/tpu_worker.sh $(quoted "--chip=$CHIP" "${SETS[@]}" -- "$@" "--config.mesh.devices=$DEVICES")"
ASK="kill -TERM \$(cat mvgrpo.pid)"
on_all() { # command
    "${VM[@]}" ssh "$NAME" "${PLACE[@]}" --worker=all "--command=$1"
}

if [ -n "$DRY_RUN" ]; then
    DRY_ARCHIVE=mvgrpo_jax.tar.gz
    quoted "${DESCRIBE[@]}"
    quoted "${CREATE[@]}"
    quoted "${PACK[@]}" "--output=$DRY_ARCHIVE"
    quoted "${VM[@]}" scp "$DRY_ARCHIVE" "$NAME:mvgrpo_jax.tar.gz" "${PLACE[@]}" --worker=all
    quoted "${VM[@]}" ssh "$NAME" "${PLACE[@]}" --worker=all "--command=$UNPACK"
    quoted "${VM[@]}" ssh "$NAME" "${PLACE[@]}" --worker=all "--command=$TRAIN"
    [ -n "$KEEP" ] || quoted "${DELETE[@]}"
    exit
fi

say() { printf '%s %s\n' "$(date '+%F %T')" "$*" >&2; }
SCRATCH=$(mktemp -d)
STOPPED="" RUNNING="" TIMER=""
finish() {
    trap '' TERM INT
    [ -z "$RUNNING" ] || kill "$RUNNING" 2>/dev/null || true
    [ -z "$TIMER" ] || kill "$TIMER" 2>/dev/null || true
    rm -rf "$SCRATCH"
    if [ -n "$KEEP" ]; then
        say "$NAME stays; it costs until: $(quoted "${DELETE[@]}")"
    elif ! "${DELETE[@]}" && [ -n "$("${DESCRIBE[@]}" 2>/dev/null)" ]; then
        say "$NAME was not deleted and costs until: $(quoted "${DELETE[@]}")"
    fi
}
stop() {
    [ -z "$STOPPED" ] || exit 75
    STOPPED=1
    [ -n "$RUNNING" ] || exit 75
    say "stopping: the run saves first, for up to $GRACE s"
    on_all "$ASK" &
    (sleep "$GRACE" && kill -TERM $$) 2>/dev/null &
    TIMER=$!
}

# Returns when the slice is there. Its states: cloud.google.com/tpu/docs/queued-resources.
acquire() {
    local state asked="" unseen=0
    while true; do
        state=$("${DESCRIBE[@]}" 2>/dev/null) || state=""
        if [ -z "$state" ] && [ -n "$asked" ]; then # it shows itself a little later
            unseen=$((unseen + 1)) state=REQUESTED
            [ "$unseen" -lt 10 ] || { say "error: the request for $NAME vanished" && exit 1; }
        fi
        case "$state" in
            ACTIVE) return ;;
            FAILED)
                if [ -n "$asked" ]; then
                    say "error: the request for $NAME failed"
                    exit 1
                fi
                ;&
            SUSPENDING | SUSPENDED | DELETING | "")
                if [ -n "$state" ]; then
                    say "$NAME is $state: it is deleted and asked for again"
                    "${DELETE[@]}" || true
                fi
                say "asking for $TYPE as $NAME"
                "${CREATE[@]}" || { say "error: $NAME could not be asked for" && exit 1; }
                asked=1 INSTALLED=""
                ;;
            *)
                say "$NAME is $state"
                sleep 60 &
                wait $! || true
                ;;
        esac
    done
}

install() {
    "${PACK[@]}" "--output=$SCRATCH/mvgrpo_jax.tar.gz"
    "${VM[@]}" scp "$SCRATCH/mvgrpo_jax.tar.gz" "$NAME:mvgrpo_jax.tar.gz" "${PLACE[@]}" --worker=all && on_all "$UNPACK"
}

# The status of the run: the highest that a machine told, 255 where one told none.
train() {
    {
        on_all "$TRAIN" && echo "mvgrpo ssh 0" || echo "mvgrpo ssh $?"
    } 2>&1 | tee "$SCRATCH/said" &
    RUNNING=$!
    while kill -0 "$RUNNING" 2>/dev/null; do wait "$RUNNING" || true; done # a signal interrupts wait
    RUNNING=""
    CODE=$(sed -n 's/^.*mvgrpo status \([0-9]*\)$/\1/p' "$SCRATCH/said" | sort -n | tail -1)
    if [ -z "$CODE" ] || { [ "$CODE" = 0 ] && ! grep -q '^mvgrpo ssh 0$' "$SCRATCH/said"; }; then CODE=255; fi
}

[ -z "$(git -C "$ROOT" status --porcelain --untracked-files=no)" ] || say "warning: changes that are not committed stay here"
trap finish EXIT
trap stop TERM INT
INSTALLED=""
for ((start = 0; ; start++)); do
    acquire
    if [ -z "$INSTALLED" ]; then
        install || { say "error: $NAME could not be prepared" && exit 1; }
        INSTALLED=1
    fi
    train
    say "the run ended with status $CODE"
    [ -z "$STOPPED" ] || exit 75
    if [ "$CODE" = 73 ]; then # of tpu_worker.sh
        KEEP=1
        fail "another run is at work on $NAME, which stays as it is; give this one another --name"
    fi
    [ "$CODE" -ge 75 ] || exit "$CODE"
    [ "$start" -lt "$RESTARTS" ] || exit "$CODE"
done
