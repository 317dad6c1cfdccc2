"""Which source to start from, and how: scores, their track record, and a search within a budget."""
