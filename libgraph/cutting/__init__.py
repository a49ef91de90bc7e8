"""Somebody's module cut into a network: captured, its pieces recognised, all of it compared."""
