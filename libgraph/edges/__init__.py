"""Edges: interactions between features, how many of them the score needs, how sparse they are."""
