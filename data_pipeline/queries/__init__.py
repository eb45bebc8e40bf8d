"""Queries: what can be asked of a graph, what is replied when, and how it is put.

`ask.py` has the records, `kinds.py` the registry `KINDS`, and `plan.py` what builders call: `plan_asks`, `replies`,
`window` and `question_task`. Each kind is a file of its own.
"""
