"""Searching hyper-parameters: spaces, the study, a trial, results. Nothing here knows of Ray."""
