#!/bin/bash

# Parameters
#SBATCH --account=lab
#SBATCH --array=0-2%3
#SBATCH --cpus-per-task=4
#SBATCH --dependency=afterany:3
#SBATCH --gpus-per-node=a100:1
#SBATCH --job-name=prefsweep-NAME
#SBATCH --mem=65536M
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --output=STORE/batches/NAME/%A_%a_0_log.out
#SBATCH --partition=gpu
#SBATCH --requeue
#SBATCH --reservation=mine
#SBATCH --signal=USR2@90
#SBATCH --time=600
#SBATCH --wckey=submitit

# setup
module load cuda

# command
export SUBMITIT_EXECUTOR=slurm
srun --unbuffered --output STORE/batches/NAME/%A_%a_%t_log.out --cpus-per-task=4 PYTHON -u -m submitit.core._submit STORE/batches/NAME
