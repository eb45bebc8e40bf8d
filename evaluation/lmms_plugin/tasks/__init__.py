"""Tasks of lmms-eval: a folder a benchmark. Found with --include_path, not by import."""
