"""StreamingBench as tasks of lmms-eval."""
