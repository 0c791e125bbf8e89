"""Pages that one can send to a colleague: one file, no scripts, nothing fetched."""
