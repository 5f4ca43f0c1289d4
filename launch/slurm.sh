#!/bin/bash
# Submits a training run to SLURM, by default on nodes of eight H200 with a process for each GPU:
#
#   bash launch/slurm.sh --nodes 2 --hours 24 -- --config=configs/mvgrpo_flux.py --workdir=/shared/runs/flux [--config.key=value ...]
#
# --nodes N            nodes (1)
# --gpus G             GPUs of a node (8); 0: CPUs
# --tasks T            processes of a node (as many as GPUs, on CPUs 1)
# --cpus C             processor cores of a process (12)
# --chip NAME          whose flags launch/flags.py gives (h200 with GPUs, none without)
# --set NAME=VALUE     a flag instead of that table's; may be repeated
# --sidecar NAME:NODESxGPUS[:KEY]
#                      servers beside the trainer on nodes of their own, as parts of one job: 'captioner:1x8' or 'reward:1x4' of
#                      launch/sidecars/compose.yaml, a server on each GPU (0 GPUs: one on CPUs). Their addresses and their key go
#                      to --config.KEY.endpoints and .key_env. Servers that are there already need none of this: name their
#                      endpoints among the settings of the run.
# --sidecar_word NAME:WORD
#                      a flag of those servers, such as judges:--judge=clip=/data/clip; may be repeated
# --hours H            limit of the job (24); at its end the job is queued again
# --grace S            seconds from SIGTERM to the limit (600): the longest stage and a checkpoint
# --restarts R         how often the job queues itself again (20)
# --name NAME          name of the job (the workdir's last part)
# --setup FILE         sourced on the nodes before anything else: modules, a virtual environment
# --python FILE        the interpreter (python)
# --sbatch WORD        a word for sbatch, such as --partition=gpu; may be repeated
# --dry_run            prints every command, those that the job would run as well, and submits nothing
#
# The job is launch/slurm_job.sh; what it prints goes to the workdir.
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=launch/common.sh
source "$ROOT/launch/common.sh"

NODES=1 GPUS=8 TASKS="" CPUS=12 CHIP="" HOURS=24 GRACE=600 RESTARTS=20 NAME="" SETUP="" PYTHON=python
SETS=() SIDECARS=() WORDS=() MORE=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do
    [[ $1 != --*=* ]] || set -- "${1%%=*}" "${1#*=}" "${@:2}"
    case "$1" in
        --dry_run) DRY_RUN=1 ;;
        -h | --help) usage "$0" && exit ;;
        --nodes) needs "$@" && NODES=$2 && shift ;;
        --gpus) needs "$@" && GPUS=$2 && shift ;;
        --tasks) needs "$@" && TASKS=$2 && shift ;;
        --cpus) needs "$@" && CPUS=$2 && shift ;;
        --chip) needs "$@" && CHIP=$2 && shift ;;
        --set) needs "$@" && SETS+=("$2") && shift ;;
        --sidecar) needs "$@" && SIDECARS+=("$2") && shift ;;
        --sidecar_word) needs "$@" && WORDS+=("--sidecar_word=$2") && shift ;;
        --hours) needs "$@" && HOURS=$2 && shift ;;
        --grace) needs "$@" && GRACE=$2 && shift ;;
        --restarts) needs "$@" && RESTARTS=$2 && shift ;;
        --name) needs "$@" && NAME=$2 && shift ;;
        --setup) needs "$@" && SETUP=$2 && shift ;;
        --python) needs "$@" && PYTHON=$2 && shift ;;
        --sbatch) needs "$@" && MORE+=("$2") && shift ;;
        *) fail "unknown option $1; those of training come after --" ;;
    esac
    shift
done
[ $# -gt 1 ] || fail "nothing to train: give -- --config=configs/NAME.py --workdir=DIR"
shift
whole --nodes "$NODES" 1
whole --gpus "$GPUS" 0
TASKS=${TASKS:-$((GPUS > 0 ? GPUS : 1))}
whole --tasks "$TASKS" 1
whole --cpus "$CPUS" 1
whole --hours "$HOURS" 1
whole --grace "$GRACE" 1
whole --restarts "$RESTARTS" 0
[ "$GPUS" = 0 ] || [ $((GPUS % TASKS)) = 0 ] || fail "--tasks $TASKS: expected a number that divides --gpus $GPUS"
[ -z "$SETUP" ] || [ -f "$SETUP" ] || fail "--setup $SETUP: no such file"
WORKDIR=$(workdir_of "$@") || fail "no workdir: give --workdir=DIR, on a file system that all nodes share"
NAME=${NAME:-$(basename "$WORKDIR")}
[ "$GPUS" = 0 ] || CHIP=${CHIP:-h200}
DEVICES=$((NODES * (GPUS > 0 ? GPUS : TASKS)))
LOGS=.
[[ $WORKDIR == *://* ]] || LOGS=$WORKDIR

SUBMIT=(sbatch "--job-name=$NAME" "--nodes=$NODES" "--ntasks-per-node=$TASKS" "--cpus-per-task=$CPUS")
[ "$GPUS" = 0 ] || SUBMIT+=("--gpus-per-node=$GPUS")
SUBMIT+=("--time=$HOURS:00:00" "--signal=TERM@$GRACE" --requeue --open-mode=append "--output=$LOGS/slurm-%j.out")
SUBMIT+=("--chdir=$ROOT" "${MORE[@]}")
JOB=("--python=$PYTHON" "--restarts=$RESTARTS")
[ -z "$SETUP" ] || JOB+=("--setup=$(realpath "$SETUP")")
[ -z "$CHIP" ] || JOB+=("--chip=$CHIP")
for word in "${SETS[@]}"; do JOB+=("--set=$word"); done
for word in "${SIDECARS[@]}"; do
    [[ $word =~ ^(captioner|reward|judges):([1-9][0-9]*)x([0-9]+)(:([A-Za-z0-9_.]+))?$ ]] ||
        fail "--sidecar $word: expected captioner, reward or judges:NODESxGPUS, as captioner:1x8, and :KEY where the config" \
            "keeps their endpoints elsewhere"
    sidecar=${BASH_REMATCH[1]} nodes=${BASH_REMATCH[2]} count=${BASH_REMATCH[3]} key=${BASH_REMATCH[5]}
    case "$sidecar" in
        captioner) key=${key:-views.service} && set -- "$@" --config.views.enhancer=vlm ;;
        reward) key=${key:-judges.unifiedreward} ;;
        judges) [ -n "$key" ] || fail "--sidecar $word: name the judge of the config that asks them, as $word:judges.clip" ;;
    esac
    SUBMIT+=(: "--nodes=$nodes" "--ntasks-per-node=$((count > 0 ? count : 1))" "--cpus-per-task=$CPUS")
    [ "$count" = 0 ] || SUBMIT+=("--gpus-per-node=$count")
    SUBMIT+=("${MORE[@]}")
    JOB+=("--sidecar=$sidecar:${nodes}x$count:$key")
done
JOB+=("${WORDS[@]}")
JOB+=(-- "$@" "--config.mesh.devices=$DEVICES")

[[ $WORKDIR == *://* ]] || run mkdir -p "$WORKDIR"
run "${SUBMIT[@]}" "$ROOT/launch/slurm_job.sh" "${JOB[@]}"
[ -z "$DRY_RUN" ] || bash "$ROOT/launch/slurm_job.sh" --dry_run "${JOB[@]}"
