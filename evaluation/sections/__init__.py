"""Sections of a report that are the same on the page and in Markdown: each makes blocks of a report's mapping."""
