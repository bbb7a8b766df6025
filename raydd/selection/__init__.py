"""Real images that stand for a class: coresets and starting images."""
