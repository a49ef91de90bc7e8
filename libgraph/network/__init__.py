"""The network, a chain of sections between node layers, and bases of its node layers."""
