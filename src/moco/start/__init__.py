"""Where a run's weights come from that do not start random: `moco pretrain --from`."""
