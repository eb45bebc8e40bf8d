"""Rewards: pure functions of episodes, by name (registry.py), added up as recipes say (mix.py). See docs/REWARDS.md."""
