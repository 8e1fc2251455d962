#!/usr/bin/env bash
# Evaluate under slurm:
# tools/slurm_test.sh PARTITION JOB_NAME CONFIG CHECKPOINT [OPTIONS]
# CHECKPOINT is "" where the config names its weights, as ensembles do.
# Environment: GPUS (8), GPUS_PER_NODE (8), CPUS_PER_TASK (5), SRUN_ARGS
# (words for srun), PYTHON.
set -euo pipefail

if [ "$#" -lt 4 ]; then
    sed -n '2,6s/^# //p' "$0" >&2
    exit 2
fi
PARTITION=$1
JOB_NAME=$2
CONFIG=$3
CHECKPOINT=$4
GPUS_PER_NODE=${GPUS_PER_NODE:-8}
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export PYTHONPATH="$HERE/..${PYTHONPATH:+:$PYTHONPATH}"
read -r -a SRUN_WORDS <<<"${SRUN_ARGS:-}"

exec srun -p "$PARTITION" \
    --job-name="$JOB_NAME" \
    --gres=gpu:"$GPUS_PER_NODE" \
    --ntasks="${GPUS:-8}" \
    --ntasks-per-node="$GPUS_PER_NODE" \
    --cpus-per-task="${CPUS_PER_TASK:-5}" \
    --kill-on-bad-exit=1 \
    ${SRUN_WORDS[@]+"${SRUN_WORDS[@]}"} \
    "${PYTHON:-python}" -u "$HERE/test.py" "$CONFIG" \
    ${CHECKPOINT:+"$CHECKPOINT"} \
    --launcher slurm "${@:5}"
