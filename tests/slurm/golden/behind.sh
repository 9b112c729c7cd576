#!/bin/bash

# Parameters
#SBATCH --cpus-per-task=4
#SBATCH --dependency=afterok:1,afterany:2
#SBATCH --exclusive
#SBATCH --gpus-per-node=1
#SBATCH --job-name=prefsweep-sample-NAME
#SBATCH --kill-on-invalid-dep=yes
#SBATCH --mem=32768M
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --output=STORE/batches/sample-NAME/%j_0_log.out
#SBATCH --partition=gpu
#SBATCH --requeue
#SBATCH --reservation=mine
#SBATCH --signal=USR2@90
#SBATCH --time=240
#SBATCH --wckey=submitit

# setup
module load cuda

# command
export SUBMITIT_EXECUTOR=slurm
srun --unbuffered --output STORE/batches/sample-NAME/%j_%t_log.out --cpus-per-task=4 PYTHON -u -m submitit.core._submit STORE/batches/sample-NAME
