"""Training stages: one file each (sft.py), and what they alone need."""
