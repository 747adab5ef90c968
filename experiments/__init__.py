"""Real trainings with pruning, each from one command: `python -m experiments.run NAME`."""
