"""Degeneracy by module: how free directions add up over modules."""
