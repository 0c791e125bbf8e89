"""One training step on given views: ours, the papers' own, and other libraries'."""
