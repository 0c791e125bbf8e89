"""Is this machine fit for runs: versions, devices, room, and what a container lets it have."""
