"""Runs and bases held against each other: side by side, and what changed from one to the next."""
