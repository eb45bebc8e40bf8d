"""Checks of data: causality, and the files themselves."""
