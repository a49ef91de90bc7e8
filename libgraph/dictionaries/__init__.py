"""Dictionaries of other tools: their files, their hooks, and the node layers that they belong to."""
