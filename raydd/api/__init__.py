"""The verbs as functions: what the command line calls, and what a script may."""
