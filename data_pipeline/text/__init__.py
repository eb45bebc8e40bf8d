"""Text steps: whatever is written in words, by templates or by a model behind an endpoint."""
