"""Data: annotations, videos or the procedural world -> Samples."""
