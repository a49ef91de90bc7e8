"""The interaction graph in formats that other programs read."""
