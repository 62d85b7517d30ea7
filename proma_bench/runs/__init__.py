"""A run's directory: its files, its checkpoints, and the criteria that will judge it."""
