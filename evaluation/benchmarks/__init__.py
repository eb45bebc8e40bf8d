"""Public benchmarks: annotation files -> Samples, and replies -> verdicts. One file each; `all.py` is the registry."""
