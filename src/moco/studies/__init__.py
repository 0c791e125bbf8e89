"""Studies: the papers' own comparisons, run again."""
