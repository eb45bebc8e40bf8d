"""Benchmarks: one measured claim a file. `python -m benchmarks` runs them all and writes docs/BENCHMARKS.md.

A benchmark states the claim and the baseline in its docstring, measures both in one run, prints a table, and prints as
its last line one JSON object {"name", "ratio", "target", "holds", "details"}. It needs no network.
"""
