"""The analysis: from a backend to bases, edges, modules, and what its checks say."""
