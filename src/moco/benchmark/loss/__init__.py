"""The InfoNCE loss alone, forward and backward: ours and the papers' own."""
