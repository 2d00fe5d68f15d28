#!/bin/bash
# The whole recipe on a cluster: every source that is there is built and filtered, all is proved, verified, packed, and
# training begins. Stopped and run again, it goes on where it was.
#
#   examples/recipe.sh /data/raw data MODEL --engine ray        # after `ray start --head`, and on the other nodes
#   examples/recipe.sh /data/raw data MODEL --engine slurm --workers 200 --engine-option slurm_partition=cpu
#
# RAW, DATA and MODEL (train.assemble makes one) are folders that all nodes see. Training goes into Slurm's queue, each
# stage after the one before; where there is no Slurm it runs here, on all devices. More options of a command: BUILD,
# PROVE, VERIFY, PACK, TRAIN. Rows that were damaged or not compared are printed and stop nothing; training refuses what
# it may not rest on.
set -euo pipefail

if (($# < 3)); then
    echo "usage: recipe.sh RAW DATA MODEL [--engine ENGINE ...]" >&2
    exit 2
fi
raw=$1 data=$2 model=$3
shift 3

medgpt() {
    "${PYTHON:-python}" -m medgpt "$@" || (($? == 3 || $? == 4))
}

medgpt build all --raw "$raw" --out "$data/built" ${BUILD:-} "$@"
medgpt prove "$data" ${PROVE:-} "$@"
medgpt verify "$data" ${VERIFY:-} "$@"
after=""
for stage in ${STAGES:-pretrain midtrain instruct}; do
    medgpt pack "$data" --stage "$stage" ${PACK:-} "$@"
    words=("$data" "$model" "$data/runs/$stage")
    if command -v sbatch > /dev/null; then
        job=$(sbatch --parsable $after "$(dirname "$0")/../train/slurm/train.sbatch" "$stage" "${words[@]}" ${TRAIN:-})
        after="--dependency=afterok:$job"
    else
        torchrun --nproc_per_node gpu -m train.run \
            --stage "$stage" --shards "${words[0]}" --model "${words[1]}" --out "${words[2]}" ${TRAIN:-}
    fi
    model=$data/runs/$stage/model
done
