"""What in a network does nothing (arXiv 2405.10927): parameters that are free to move.

`measure` runs everything. `weights` says which matrices a network is made of and shows what goes
in and comes out of each, `products` shows whole units; `ranks` finds directions that activations or
gradients leave free, `gates` and `heads` find `groups` that act as one, `behaviour` says how many
parameters matter at a tolerance, `volume` the same by sampling, `by_module` whether modules add up,
`unit_graph` what Gephi shows.
"""
