"""OVO-Bench as tasks of lmms-eval."""
