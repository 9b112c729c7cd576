"""Training by several processes, on one machine or the machines of a SLURM job.

`launch` runs in the process that holds the node's claim: it starts one `machine` on every machine, which is torchrun
with an eye on that process, and those start the `rank`s. The ranks train together; the first alone writes. What they
tell the owner goes through a folder in the node's work, which is gone before the artifact is published.
"""
