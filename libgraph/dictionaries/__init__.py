"""Dictionaries of other tools: their files, their hooks, and the node layers they belong to."""
