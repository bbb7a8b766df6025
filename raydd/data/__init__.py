"""Image sets, preprocessing, synthetic sets and trajectories, in memory and on disk."""
