#!/usr/bin/env bash
# Evaluate with several processes:
# tools/dist_test.sh CONFIG CHECKPOINT GPUS [OPTIONS]
# CHECKPOINT is "" where the config names its weights, as ensembles do.
# On a machine without a GPU, GPUS is the number of CPU processes (gloo).
# Environment: NNODES, NODE_RANK, MASTER_ADDR, PORT for several machines
# (a free port is chosen on one machine if PORT is not set); PYTHON.
set -euo pipefail

if [ "$#" -lt 3 ]; then
    sed -n '2,7s/^# //p' "$0" >&2
    exit 2
fi
CONFIG=$1
CHECKPOINT=$2
GPUS=$3
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export PYTHONPATH="$HERE/..${PYTHONPATH:+:$PYTHONPATH}"

if [ "${NNODES:-1}" = 1 ] && [ -z "${PORT:-}" ]; then
    RENDEZVOUS=(--standalone)
else
    RENDEZVOUS=(--nnodes="${NNODES:-1}" --node_rank="${NODE_RANK:-0}"
        --master_addr="${MASTER_ADDR:-127.0.0.1}"
        --master_port="${PORT:-29500}")
fi
exec "${PYTHON:-python}" -m torch.distributed.run "${RENDEZVOUS[@]}" \
    --nproc_per_node="$GPUS" \
    "$HERE/test.py" "$CONFIG" ${CHECKPOINT:+"$CHECKPOINT"} --launcher pytorch "${@:4}"
