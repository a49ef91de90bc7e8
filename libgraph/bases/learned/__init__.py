"""Dictionaries that are learned here: what they minimise, and how."""
