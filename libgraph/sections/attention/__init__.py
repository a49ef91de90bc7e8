"""Attention: its closed forms, and the sums over positions that they need."""
