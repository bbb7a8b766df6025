"""Analyses of experts and runs: each function reads files and returns one document, the numbers of a figure.

A document is JSON, holds every number that its figure draws, and has its name under ``analysis``; values that were not
measured are None.
"""
