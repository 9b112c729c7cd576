#!/bin/bash

# Parameters
#SBATCH --account=lab
#SBATCH --array=0-2%3
#SBATCH --constraint='a100|h100'
#SBATCH --cpus-per-task=4
#SBATCH --dependency=afterany:3
#SBATCH --exclusive
#SBATCH --gpus-per-node=a100:8
#SBATCH --job-name=prefsweep-train-NAME
#SBATCH --mail-user=me@lab.org
#SBATCH --mem=65536M
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --output=STORE/batches/train-NAME/%A_%a_0_log.out
#SBATCH --partition=gpu
#SBATCH --qos=high
#SBATCH --requeue
#SBATCH --reservation=mine
#SBATCH --signal=USR2@90
#SBATCH --time=600
#SBATCH --wckey=submitit

# setup
module load cuda
export NCCL_DEBUG=WARN

# command
export SUBMITIT_EXECUTOR=slurm
srun --unbuffered --output STORE/batches/train-NAME/%A_%a_%t_log.out --cpus-per-task=4 PYTHON -u -m submitit.core._submit STORE/batches/train-NAME
