"""Finished runs: in memory and on disk, their figures and tables."""
