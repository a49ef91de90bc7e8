"""What in a network does nothing (arXiv 2405.10927): parameters that are free to move.

`measure` runs everything, `stages` lists its parts, `figures` is what comes out. `weights` are the
matrices of a network and directions that activations or gradients leave free, `synchrony` finds
units and heads that act as one, `behaviour` says how many parameters matter at a tolerance,
`modules` whether modules add up, `unit_graph` makes what Gephi shows.
"""
