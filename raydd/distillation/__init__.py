"""What a synthetic set is made to match, and the loop that makes it match."""
