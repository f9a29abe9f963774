"""What may be wrong with recordings: every check, and what ``penstock doctor`` shows of them."""
