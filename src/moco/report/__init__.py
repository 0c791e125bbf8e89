"""Pages that one can send to a colleague: one file, which fetches nothing."""
