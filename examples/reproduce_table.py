"""A table of a paper, on small data: what AST's parts bring one by one, published values beside measured ones.

The experts that the rows share are trained once, and a second call goes on where the first one stopped.
About three minutes on two cores, without a GPU or a download:

    python examples/reproduce_table.py [--smoke]
"""

import sys

import raydd
from raydd.campaigns.cell_settings import Options
from raydd.campaigns.scales import find_scale


def main(out: str = "runs/example-table", smoke: bool = False) -> None:
    """Do all that the table needs, and print it; ``raydd report`` shows it as a page."""
    table = "datm_table2c" if smoke else "ast_table8"
    small = {"steps": 1, "experts": {"network": "MLP"}} if smoke else {}
    document = raydd.campaign(table, out, Options(find_scale("digits"), set=small))
    for cell in document["cells"]:
        print(f"{cell['row']:24} {100 * cell['mean']:.1f} % ({cell['published']:g} in the paper, on {cell['column']})")


if __name__ == "__main__":
    main(smoke="--smoke" in sys.argv[1:])
