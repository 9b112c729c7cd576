"""Jobs of a SLURM cluster: batches of nodes, submitted through submitit, that go on without the command.

Nothing runs between two commands: what is done stands in the store, what is to come in SLURM's queue.
"""
