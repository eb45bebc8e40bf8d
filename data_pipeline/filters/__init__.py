"""What is turned down, and why."""
