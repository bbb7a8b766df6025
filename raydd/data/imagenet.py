"""The six ten-class ImageNet subsets of the trajectory-matching papers.

Classes are in the papers' own order, as synset id and name.

Reference: arXiv 2203.11932 (MTT), section 4.3; the class indices are those of its published code.
"""

_SUBSETS = {
    "imagenet_nette": """
        n01440764 tench; n02102040 English springer; n02979186 cassette player; n03000684 chain saw; n03028079 church;
        n03394916 French horn; n03417042 garbage truck; n03425413 gas pump; n03445777 golf ball; n03888257 parachute
    """,
    "imagenet_woof": """
        n02096294 Australian terrier; n02093754 Border terrier; n02111889 Samoyed; n02088364 beagle;
        n02086240 Shih-Tzu; n02089973 English foxhound; n02087394 Rhodesian ridgeback; n02115641 dingo;
        n02099601 golden retriever; n02105641 Old English sheepdog
    """,
    "imagenet_fruit": """
        n07753275 pineapple; n07753592 banana; n07745940 strawberry; n07747607 orange; n07749582 lemon;
        n07768694 pomegranate; n07753113 fig; n07720875 bell pepper; n07718472 cucumber; n07742313 Granny Smith
    """,
    "imagenet_meow": """
        n02123045 tabby; n02123159 tiger cat; n02123394 Persian cat; n02123597 Siamese cat; n02124075 Egyptian cat;
        n02129165 lion; n02129604 tiger; n02128925 jaguar; n02128757 snow leopard; n02127052 lynx
    """,
    "imagenet_squawk": """
        n01806143 peacock; n02007558 flamingo; n01818515 macaw; n02051845 pelican; n02056570 king penguin;
        n01614925 bald eagle; n01843383 toucan; n01518878 ostrich; n01860187 black swan;
        n01819313 sulphur-crested cockatoo
    """,
    "imagenet_yellow": """
        n02206856 bee; n12057211 yellow lady's slipper; n07753592 banana; n07749582 lemon; n12144580 corn;
        n04146614 school bus; n03530642 honeycomb; n02129165 lion; n01773157 black and gold garden spider;
        n01531178 goldfinch
    """,
}  # "tiger cat" is called Bengal cat in the paper

SUBSETS: dict[str, tuple[tuple[str, str], ...]] = {
    name: tuple((wnid, words) for wnid, _, words in (row.strip().partition(" ") for row in rows.split(";")))
    for name, rows in _SUBSETS.items()
}
