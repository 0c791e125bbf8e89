"""How fast parts of this package are beside others, measured so that the figures can be trusted."""
