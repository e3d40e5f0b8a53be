"""What long-running processes need: logs, turns, portions of work, when to stop asking."""
