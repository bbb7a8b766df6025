"""K-means selection: the images nearest to the cluster centres of their class.

Any method can start from these images: ``--set initial=kmeans``.
"""

from raydd.methods.method import Method

METHOD = Method(
    name="kmeans", about=__doc__, match="nothing", defaults={"steps": 0, "initial": "kmeans", "select_by": "pixels"}
)
