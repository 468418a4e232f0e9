#!/usr/bin/env bash
# All devices of one machine, started again after each stop or crash until the training is done.
#
#   start:   bash examples/launch/one_node.sh                 (further flags of train_ranker.py may follow)
#   follow:  llamarec checkpoints list beauty
#   stop:    Ctrl-C, or SIGTERM to `llamarec launch`; the same command goes on
set -euo pipefail

DATASET=${DATASET:-beauty}
PROCESSES=${PROCESSES:-auto} # one for each GPU; without one, for each core
EXPERIMENTS=${EXPERIMENTS:-experiments}

cd "$(dirname "$0")/../.."
name=$(basename "$DATASET")
flags=(--dataset_code "$DATASET" --experiment_root "$EXPERIMENTS")

[ -f "$EXPERIMENTS/lru/${name%%.*}/manifest.json" ] ||
    llamarec launch --until_done -- python train_retriever.py "${flags[@]}"

exec llamarec launch --until_done -- torchrun --standalone --nproc_per_node "$PROCESSES" \
    train_ranker.py "${flags[@]}" --resume_from_checkpoint "$@"
