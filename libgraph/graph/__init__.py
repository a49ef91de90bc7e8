"""The interaction graph: numbers and names only, no torch, no files."""
