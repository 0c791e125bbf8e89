"""Is a run healthy: from its signals and rules to a verdict, its evidence and what to change."""
