"""Print the folder of our lmms-eval tasks, for `--include_path`."""

from evaluation.lmms_plugin import tasks_path

print(tasks_path())
