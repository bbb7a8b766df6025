"""Files, streams and processes: what raydd reads and writes, and what a person sees."""
