"""Tests of the SLURM executor against commands that only pretend to be SLURM's."""
