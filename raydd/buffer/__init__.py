"""Expert trajectories: in memory, in Arrow files, and at a URI."""
