"""The prefsweep pipeline: from prompts to judged models."""
