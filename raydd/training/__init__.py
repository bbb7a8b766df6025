"""Training networks: experts on real images, students on synthetic ones."""
