"""Readers of temporal annotations: a file of a dataset becomes Sources."""
