"""The sparse basis: what it minimises, and how."""
