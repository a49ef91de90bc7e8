"""Bases of node layers: one method a module, all behind the protocol of `method.BasisMethod`."""
