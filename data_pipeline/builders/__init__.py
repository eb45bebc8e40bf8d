"""Builders: a source becomes Samples, one module a method."""
