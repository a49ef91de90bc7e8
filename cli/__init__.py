"""The `libgraph` command: one command a file; options, tables and progress beside them."""
