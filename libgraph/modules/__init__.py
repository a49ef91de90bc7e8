"""Modules of graphs: found, summed up, told from chance. No torch."""
