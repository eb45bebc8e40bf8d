"""A procedural video world with ground truth: small films whose every event, thought and answer is known exactly.

Objects go into a closed box and come out of it, one event a segment. What is in the box cannot be seen, and no later
frame shows what happened earlier, so questions about the past need memory. A star of changing colour asks for the
present. `config.py` says what can happen, `simulate.py` lets it happen, `draw.py` shows it, `graph.py` writes it down,
`build.py` puts it into files. Builders make samples of it; the builder `world` speaks its own short language.
"""
