"""Recipes on a cluster: Slurm scripts, rendered and submitted (`whilst launch`), and what those scripts call."""
