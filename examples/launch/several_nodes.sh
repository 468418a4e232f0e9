#!/usr/bin/env bash
# Several machines. Each runs this same command, in a folder that all of them mount (NFS, for example).
#
#   start:   FIRST=node-1 NODES=2 bash examples/launch/several_nodes.sh     (on each machine; flags may follow)
#   stop:    SIGTERM to `llamarec launch` on one of them: all save the same step, and end with 75
#
# A machine that disappears ends the others with 75 too; they start again at once, and wait for its replacement.
set -euo pipefail

DATASET=${DATASET:-beauty}
FIRST=${FIRST:?the name or address of one of the machines, as all others reach it}
NODES=${NODES:?how many machines}
PROCESSES=${PROCESSES:-auto}
PORT=${PORT:-29500}
WAIT_SECONDS=${WAIT_SECONDS:-3600} # for a replacement
EXPERIMENTS=${EXPERIMENTS:-experiments}

# 1 on the machine of that name, 0 on the others; torchrun finds out by itself where FIRST is a host name. In a Job of
# Kubernetes it is the pod with the index 0.
IS_FIRST=${IS_FIRST:-}
[ -z "${JOB_COMPLETION_INDEX:-}" ] || IS_FIRST=$((JOB_COMPLETION_INDEX == 0))

cd "$(dirname "$0")/../.."
name=$(basename "$DATASET")
flags=(--dataset_code "$DATASET" --experiment_root "$EXPERIMENTS")

if [ ! -f "$EXPERIMENTS/lru/${name%%.*}/manifest.json" ]; then
    case "$IS_FIRST" in
        1) llamarec launch --until_done -- python train_retriever.py "${flags[@]}" ;;
        0) ;; # waits below
        *)
            echo "$EXPERIMENTS/lru/${name%%.*} has no retriever. On one machine: python train_retriever.py ${flags[*]}" >&2
            exit 2
            ;;
    esac
fi

exec llamarec launch --until_done -- torchrun --nnodes "$NODES" --nproc_per_node "$PROCESSES" \
    --rdzv_id "$DATASET" --rdzv_backend c10d --rdzv_endpoint "$FIRST:$PORT" \
    --rdzv_conf "join_timeout=$WAIT_SECONDS${IS_FIRST:+,is_host=$IS_FIRST}" \
    train_ranker.py "${flags[@]}" --resume_from_checkpoint "$@"
