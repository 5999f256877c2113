"""Make a new ledger from what the targets and the spool hold."""
