"""Queries about a graph: every kind proposes asks and works out replies."""
