"""Training students on image sets and scoring them: protocols, matrices, cached results, statistics."""
