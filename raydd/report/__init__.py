"""One self-contained HTML page of what runs did: no network, no second file."""
