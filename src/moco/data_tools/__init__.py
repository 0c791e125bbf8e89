"""What `moco data` does to a source of images before training: check, count, pack, preview."""
