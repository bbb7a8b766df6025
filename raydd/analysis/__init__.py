"""Looking into experts and runs: each function reads files and returns one document, the numbers of a figure.

A document is JSON-able, holds every number that its figure draws, and names itself under ``analysis``;
what was not measured is None.
"""
