"""Which source to start from, and how: scores and their track record."""
