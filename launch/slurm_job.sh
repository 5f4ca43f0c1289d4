#!/bin/bash
# The job that launch/slurm.sh submits: starts the sidecars, waits for them, trains, and queues itself again where the run can
# go on. SLURM runs a copy of this file in the folder of the repository.
#
# --python FILE, --setup FILE, --chip NAME, --set NAME=VALUE, --sidecar NAME:NODESxGPUS:KEY, --sidecar_word NAME:WORD,
# --restarts R, --dry_run as there
set -euo pipefail
# SLURM sends SIGTERM to this script too where a job is to end: srun passes it on, and its status is waited for.
trap : TERM
# shellcheck source=launch/common.sh
source launch/common.sh

CHIP="" SETUP="" PYTHON=python RESTARTS=20 SETS=() SIDECARS=() WORDS=() SERVERS=() URLS=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do
    [[ $1 != --*=* ]] || set -- "${1%%=*}" "${1#*=}" "${@:2}"
    case "$1" in
        --dry_run) DRY_RUN=1 && shift && continue ;;
        --python) PYTHON=$2 ;;
        --setup) SETUP=$2 ;;
        --chip) CHIP=$2 ;;
        --set) SETS+=("--set=$2") ;;
        --sidecar) SIDECARS+=("$2") ;;
        --sidecar_word) WORDS+=("$2") ;;
        --restarts) RESTARTS=$2 ;;
        *) fail "unknown option $1" ;;
    esac
    shift 2
done
shift
TRAIN=("$PYTHON" -m mvgrpo_jax.main "$@")
# The trainer is the first part of a job that has several.
GROUP=()
[ ${#SIDECARS[@]} = 0 ] || GROUP=(--het-group=0)

if [ -n "$SETUP" ]; then
    # shellcheck disable=SC1090
    if [ -n "$DRY_RUN" ]; then quoted source "$SETUP"; else source "$SETUP"; fi
fi
if [ -n "$CHIP" ]; then
    FLAGS=$("$PYTHON" -m launch.flags "--chip=$CHIP" "${SETS[@]}") || exit 2
    if [ -n "$DRY_RUN" ]; then printf '%s\n' "$FLAGS"; else eval "$FLAGS"; fi
fi

# The hosts of a sidecar: its part of the job.
hosts_of() { # number of the part
    local nodes="SLURM_JOB_NODELIST_HET_GROUP_$1"
    if [ -n "$DRY_RUN" ]; then printf 'HOST%s\n' "$1"; else scontrol show hostnames "${!nodes}"; fi
}

# Servers and trainer share a key that this job alone knows, unless there is one.
if [ ${#SIDECARS[@]} -gt 0 ] && [ -z "${VLLM_API_KEY:-}" ] && [ -z "$DRY_RUN" ]; then
    VLLM_API_KEY=$(head -c 32 /dev/urandom | od -An -vtx1 | tr -d ' \n')
    export VLLM_API_KEY
fi
FIRST_PORT=8100
for ((i = 0; i < ${#SIDECARS[@]}; i++)); do
    IFS=: read -r name size key <<<"${SIDECARS[i]}"
    count=${size#*x}
    addresses=""
    for host in $(hosts_of $((i + 1))); do
        for ((k = 0; k < (count > 0 ? count : 1); k++)); do
            URLS+=("http://$host:$((FIRST_PORT + k))")
            addresses+="'http://$host:$((FIRST_PORT + k))$([ "$name" = judges ] || echo /v1)', "
        done
    done
    TRAIN+=("--config.$key.endpoints=(${addresses% })" "--config.$key.key_env=VLLM_API_KEY")
    SERVE=(srun "--het-group=$((i + 1))" --kill-on-bad-exit=1)
    [ "$count" = 0 ] || SERVE+=(--gpus-per-task=1)
    SERVE+=("$PYTHON" -m launch.sidecars.serve "$name" "--port=$FIRST_PORT")
    for word in "${WORDS[@]}"; do
        [[ $word != "$name:"* ]] || SERVE+=("--word=${word#*:}")
    done
    if [ -n "$DRY_RUN" ]; then
        quoted "${SERVE[@]}"
    else
        "${SERVE[@]}" &
        SERVERS+=($!)
    fi
    FIRST_PORT=$((FIRST_PORT + 100))
done
if [ ${#URLS[@]} -gt 0 ]; then # a server that ends before all answer ends the job
    run "$PYTHON" -m launch.sidecars.ready "${URLS[@]}" "--while=${SERVERS[*]:-PIDS}" || exit 1
fi

STATUS=0
run srun "${GROUP[@]}" --kill-on-bad-exit=1 "${TRAIN[@]}" --distributed || STATUS=$?
# 2 is a mistake and 1 an error: they would come again. 75 is a run that stopped saved, above it a process that was killed. A
# job that SLURM took off its nodes is pending already, and one that scancel ended is not to come back: neither is running.
if [ "$STATUS" -ge 75 ] && [ "${SLURM_RESTART_COUNT:-0}" -lt "$RESTARTS" ] &&
    [[ $(scontrol show job "${SLURM_JOB_ID:?}" --oneliner) == *" JobState=RUNNING "* ]]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$STATUS"
