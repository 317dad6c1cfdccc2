"""Source runs that learn to learn from few rows (`stage=meta`), and what they are compared with."""
