#!/bin/bash
# A training as a Slurm job, for those who write their own scripts; `hydra/launcher=slurm` needs none.
#
#   sbatch scripts/slurm_train.sh method=adain data.content=coco/train2017 data.style=wikiart
#   sbatch --nodes=4 --ntasks-per-node=8 --gpus-per-node=8 scripts/slurm_train.sh method=adain data=shards ...
#
# Flags of sbatch come before the script and win over those below; after it, anything that `python -m nstexp` takes. One
# process per task; several train together. The run is in runs/nstexp/slurm_JOB, unless run_dir=... says where. Before its
# time is over, and before a job of higher priority takes its place, the training saves a checkpoint, goes back into the
# queue and goes on there. Python is the one on PATH, or $PYTHON.
#SBATCH --job-name=nstexp-train
#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append
#SBATCH --time=04:00:00
#SBATCH --cpus-per-task=4
#SBATCH --signal=USR2@120
#SBATCH --requeue
set -euo pipefail

settings=(task=train "run_dir=runs/nstexp/slurm_${SLURM_JOB_ID:?run it with sbatch}")
if [[ ${SLURM_NTASKS:-1} -gt 1 && " $*" != *" trainer="* ]]; then
    settings+=(trainer=ddp "trainer.num_nodes=$SLURM_JOB_NUM_NODES")
    settings+=("trainer.devices=$((SLURM_NTASKS / SLURM_JOB_NUM_NODES))")
fi
# A process that fails takes the others along, and none waits for one that is gone.
exec srun --kill-on-bad-exit=1 --wait=600 "${PYTHON:-python}" -u -m nstexp "${settings[@]}" "$@"
