"""Campaigns: a table of a paper as a plan, its graph of experts, distillations and scores, and their order."""
