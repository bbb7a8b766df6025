"""The synthetic images on a page: by class, through the outer steps, each with its label.

All images of a step lie in one picture, of which every image shows its part: a slider that changes the picture changes
them all.
"""

from raydd.report.folder import RunFolder
from raydd.report.frames import LIKELIEST, members_of, read_images
from raydd.report.html import Section, macros


def image_section(run: RunFolder) -> Section:
    """Return the images of a run by class, with a slider where it kept frames."""
    grid, synset = read_images(run), run.synset
    if grid is None:
        return Section("images", "Synthetic images", macros("images").missing())
    images, hint = "", ""
    if synset is not None:
        drawn, count = sum(map(len, members_of(synset))), len(synset.images)
        images = f"all {count}" if drawn == count else f"{drawn} of {count}"
        soft = f"its soft label: the {min(LIKELIEST, len(synset.classes))} likeliest classes"
        label = soft if synset.label_kind == "logits" else "its label"
        hint = f"Point at an image, or reach it by Tab and the arrow keys, for {label}."
    alone = len(grid.stops) < 2 and run.folder is not None and run.finished and run.setting("steps", 0) != 0
    return Section("images", "Synthetic images", macros("images").section(run, grid, images, hint, alone))
