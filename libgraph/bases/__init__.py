"""Bases of node layers: one a module, which says all that others have to know of it (`METHOD`)."""
