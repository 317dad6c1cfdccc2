"""Many runs: frozen at the start, written down in a ledger, and gone on with after any interruption."""
