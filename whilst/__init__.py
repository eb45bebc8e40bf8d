"""Whilst: post-train video LLMs that think whilst they watch. Here is the streaming core that every stage shares."""

__version__ = "0.1.0"
