"""`python -m libgraph_cli` is the `libgraph` command."""

from libgraph_cli.main import main

main()
