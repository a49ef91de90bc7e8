"""Sums over data, in float64 and in bounded memory, over one process or many."""
