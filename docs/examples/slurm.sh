#!/bin/bash
#SBATCH --job-name=legwatch
#SBATCH --array=1-8
#SBATCH --cpus-per-task=4
#SBATCH --mem=8G
#SBATCH --time=04:00:00
# A campaign over a Slurm array, a part a task. OUT is on a file system that all nodes see. When all tasks have ended:
#   legwatch report --merge "$OUT"/part-* --out "$OUT/whole"
set -euo pipefail
OUT=${OUT:?the folder for all parts}
exec legwatch test --kernel debian:6.1 debian:6.12 debian:7.3.4 --repeat 20 \
    --partition "hash:$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT" --jobs "$SLURM_CPUS_PER_TASK" --out "$OUT/part-$SLURM_ARRAY_TASK_ID"
