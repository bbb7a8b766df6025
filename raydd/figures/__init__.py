"""Figures and tables of results, drawn by matplotlib."""
