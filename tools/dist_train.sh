#!/usr/bin/env bash
# Train in several processes, one per GPU; without a GPU the processes talk through gloo.
#   bash tools/dist_train.sh CONFIG PROCESSES [options of train.py]
# Several machines: set NNODES, NODE_RANK, MASTER_ADDR and PORT on each.
set -euo pipefail

CONFIG=${1:?wanted CONFIG PROCESSES [options of train.py], got nothing}
PROCESSES=${2:?wanted CONFIG PROCESSES [options of train.py], got no number of processes}
NNODES=${NNODES:-1}

if [[ $NNODES -eq 1 && -z ${PORT:-} ]]; then
    RENDEZVOUS=(--standalone)
else
    RENDEZVOUS=(--nnodes="$NNODES" --node_rank="${NODE_RANK:-0}"
        --master_addr="${MASTER_ADDR:-127.0.0.1}" --master_port="${PORT:-29500}")
fi

ROOT=$(cd "$(dirname "$0")/.." && pwd)
export PYTHONPATH="$ROOT${PYTHONPATH:+:$PYTHONPATH}"
exec "${PYTHON:-python}" -m torch.distributed.run "${RENDEZVOUS[@]}" --nproc_per_node="$PROCESSES" \
    "$ROOT/tools/train.py" "$CONFIG" --launcher pytorch "${@:3}"
