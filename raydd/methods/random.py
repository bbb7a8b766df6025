"""Random selection: images of each class, drawn at random."""

from raydd.methods.method import Method

METHOD = Method(name="random", about=__doc__, match="nothing", defaults={"steps": 0})
