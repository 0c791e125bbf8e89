"""Training from image files, loading included: ours and the papers' own script."""
