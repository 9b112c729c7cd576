#!/bin/bash

# Parameters
#SBATCH --cpus-per-task=2
#SBATCH --dependency=afterany:5
#SBATCH --job-name=prefsweep-judge-NAME
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --output=STORE/batches/judge-NAME/%j_0_log.out
#SBATCH --requeue
#SBATCH --signal=USR2@60
#SBATCH --time=4
#SBATCH --wckey=submitit

# setup
export HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 HF_DATASETS_OFFLINE=1

# command
export SUBMITIT_EXECUTOR=slurm
srun --unbuffered --output STORE/batches/judge-NAME/%j_%t_log.out --cpus-per-task=2 PYTHON -u -m submitit.core._submit STORE/batches/judge-NAME
