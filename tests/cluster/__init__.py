"""Tests on a real SLURM cluster, booted on this machine for the time of the tests."""
