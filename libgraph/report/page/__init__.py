"""The page of a run: one file that shows all of its graph and asks nobody for anything."""
