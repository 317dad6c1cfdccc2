"""The part of a model that does not train: run once for each row, kept on disk, and gone on from in every epoch."""
